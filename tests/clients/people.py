"""What people and programs do with the browsers of the lab: each takes a visit and a browser. People read, for as long as
they do in real time; programs wait as scripts are written.
"""

import time


def chromium(script, *flags, headless=False, agent=None):
    """Chromium, on a display of its own unless it is headless."""

    def visit_with(visit):
        from browsers import Chromium

        with Chromium(visit.name, headless, agent, flags) as browser:
            script(visit, browser)

    return visit_with


def firefox(script, **preferences):
    """Firefox; without a window it says nothing of that."""

    def visit_with(visit):
        from browsers import Firefox

        with Firefox(preferences) as browser:
            script(visit, browser)

    return visit_with


def text(script, program):
    """A browser in text, in a terminal."""

    def visit_with(visit):
        from texts import Text

        with Text(program) as browser:
            script(visit, browser)

    return visit_with


def _look(visit):
    """At a page that is there now."""
    visit.seen += 1
    time.sleep(visit.reading() * visit.pace)


def read(visit, browser, backwards=0.15):
    """From page to page by clicking on links, and reading; once in a while back."""
    browser.open(visit.url("/"))
    for number in range(visit.pages):
        _look(visit)
        if number > 1 and visit.dice.random() < backwards:
            browser.back()
        elif number < visit.pages - 1:
            browser.click(visit.dice.randrange(6))


def read_to_and_fro(visit, browser):
    """As people do in a list: back after nearly each page."""
    read(visit, browser, 0.5)


def look_through(visit, browser):
    """One page after the other by the first link, as one looks through photos: numbered pages, and not long at each."""
    browser.open(visit.url("/page/1/"))
    for number in range(visit.pages):
        visit.seen += 1
        time.sleep(visit.dice.uniform(2.2, 6) * visit.pace)
        if number < visit.pages - 1:
            browser.click(0)


def glance(visit, browser):
    """One page, and gone."""
    browser.open(visit.url("/page/9/"))
    _look(visit)


def type_in(visit, browser):
    """Addresses, one after the other: nothing is clicked on."""
    for _ in range(visit.pages):
        browser.open(visit.url(f"/page/{visit.dice.randrange(1, 61)}/"))
        _look(visit)


def reload(visit, browser):
    """Page by page, and each twice or more often, as one does with a shop's offers."""
    browser.open(visit.url("/"))
    while visit.seen < visit.pages:
        _look(visit)
        if visit.dice.random() < 0.6:
            browser.reload()
        else:
            browser.click(visit.dice.randrange(6))


def open_tabs(visit, browser):
    """Some links of a page at once, each in a tab of its own, then on from there."""
    browser.open(visit.url("/"))
    while visit.seen < visit.pages:
        _look(visit)
        for number in visit.dice.sample(range(6), 3):
            browser.tab(number)
            visit.seen += 1
            time.sleep(visit.dice.uniform(0.3, 1.2) * visit.pace)
        time.sleep(3 * visit.reading() * visit.pace)
        browser.click(visit.dice.randrange(6))


def pause(visit, browser):
    """Half of the pages, then something else for longer than connections last, then the other half."""
    browser.open(visit.url("/"))
    for number in range(visit.pages):
        _look(visit)
        if number == visit.pages // 2:
            time.sleep(visit.dice.uniform(80, 120) * visit.pace)
        if number < visit.pages - 1:
            browser.click(visit.dice.randrange(6))


def leave_open(visit, browser):
    """A page whose script asks for news every second, while nobody looks."""
    browser.open(visit.url("/app/"))
    visit.seen += 1
    time.sleep(4 * visit.pages * visit.pace)


def scroll(visit, browser):
    """A page without an end, that gets the next piece as one scrolls."""
    browser.open(visit.url("/stream/"))
    for _ in range(visit.pages):
        visit.seen += 1
        for _ in range(4):
            browser.scroll(600)
            time.sleep(visit.dice.uniform(0.3, 1) * visit.pace)
        time.sleep(visit.dice.uniform(0.5, 3) * visit.pace)


def drive(visit, browser):
    """A script: one page after the other as they are numbered, by address."""
    for number in range(1, visit.pages + 1):
        browser.open(visit.url(f"/page/{number}/"))
        visit.seen += 1
        time.sleep(visit.pace / 2)


def drive_about(visit, browser):
    """A script that takes care: pages in no order, by address, with a person's pauses."""
    type_in(visit, browser)


def click_on(visit, browser):
    """A script that clicks, every half second."""
    browser.open(visit.url("/"))
    for number in range(visit.pages):
        visit.seen += 1
        time.sleep(visit.pace / 2)
        if number < visit.pages - 1:
            browser.click(visit.dice.randrange(6))
