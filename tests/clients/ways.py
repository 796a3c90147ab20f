"""A visit to the lab's site, and ways through it for libraries: each takes a client, which makes a function that gets a path
and returns the body.
"""

import random
import re
import time
from dataclasses import dataclass

# What scanners ask for first.
PROBES = [
    "/wp-login.php", "/.env", "/.git/config", "/admin/", "/phpmyadmin/", "/xmlrpc.php", "/backup.zip", "/config.php",
    "/server-status", "/cgi-bin/test.cgi", "/wp-admin/", "/vendor/phpunit/", "/actuator/env", "/.aws/credentials",
]  # fmt: skip


@dataclass
class Visit:
    """Where to go, by a name that resolves, how many pages, and the dice."""

    name: str
    pages: int
    pace: float
    dice: random.Random
    seen: int = 0

    def url(self, path):
        """Of a path."""
        return f"https://{self.name}{path}"

    def crawl(self, get):
        """One page after the other as they are numbered, a second apart, as scripts are written."""
        for number in range(1, self.pages + 1):
            get(f"/page/{number}/")
            self.seen += 1
            time.sleep(self.pace)

    def wander(self, get):
        """From page to page by their links, with pauses of no fixed length, but nothing of what belongs to a page."""
        path = "/"
        for _ in range(self.pages):
            found = re.findall(r'href="(/page/\d+/)"', get(path))
            self.seen += 1
            path = self.dice.choice(found or ["/"])
            time.sleep(self.pace * self.dice.uniform(0.5, 3))

    def shuffle(self, get):
        """Pages in no order, with a person's pauses."""
        for _ in range(self.pages):
            get(f"/page/{self.dice.randrange(1, 61)}/")
            self.seen += 1
            time.sleep(self.reading() * self.pace)

    def follow(self, get, assets=False):
        """By links, with a person's pauses, and says where each was found, as a browser does; with what belongs to a page, or
        without it. `get` takes headers too."""
        base, path, site = self.url(""), "/", {"Sec-Fetch-Site": "none"}
        for _ in range(self.pages):
            text = get(path, site)
            self.seen += 1
            site = {"Referer": f"{base}{path}", "Sec-Fetch-Site": "same-origin"}
            for below, what in re.findall(r'(?:src|href)="(/[^"]+\.(css|js|png))"', text) if assets else []:
                what = {"css": "style", "js": "script", "png": "image"}[what]
                get(below, {**site, "Sec-Fetch-Dest": what, "Sec-Fetch-Mode": "no-cors", "Accept": "*/*"})
            path = self.dice.choice(re.findall(r'href="(/page/\d+/)"', text) or ["/"])
            time.sleep(self.reading() * self.pace)

    def reading(self):
        """How long a person looks at a page, in seconds: a second at least, seldom more than twenty."""
        return min(1 + self.dice.lognormvariate(1.2, 0.7), 20)


def numbered(visit):
    """The URLs of a crawl."""
    visit.seen = visit.pages
    return [visit.url(f"/page/{number}/") for number in range(1, visit.pages + 1)]


def crawling(client, headers=None):
    """A library that crawls."""
    return lambda visit: visit.crawl(client(visit, headers))


def wandering(client, headers=None):
    """A library that follows links."""
    return lambda visit: visit.wander(client(visit, headers))


def shuffling(client, headers=None):
    """A library that takes pages in no order."""
    return lambda visit: visit.shuffle(client(visit, headers))


def following(client, assets=False):
    """A library that does all that a browser does, or all but one thing."""
    return lambda visit: visit.follow(client(visit, None), assets)


def anew(client, headers=None):
    """A library that follows links, each time from the beginning: nothing is kept, no connection and no cookie."""
    return lambda visit: visit.wander(lambda path: client(visit, headers)(path))


def articles(client, headers):
    """A reader of feeds that takes the articles too."""

    def take(visit):
        get = client(visit, headers)
        get("/feed.xml")
        visit.wander(get)

    return take


def once(client, headers=None):
    """A library that gets one page and is gone."""

    def visit_once(visit):
        client(visit, headers)("/page/7/")
        visit.seen = 1

    return visit_once


def whole(script, headers=None):
    """A program that makes the visit itself."""
    return lambda visit: script(visit, headers)


def probing(client, headers=None):
    """Asks for what scanners ask for."""

    def probe(visit):
        get = client(visit, headers)
        for path in PROBES:
            get(path)
            visit.seen += 1

    return probe


def polling(client, path, headers):
    """One path again and again, as monitors and feed readers do."""

    def poll(visit):
        get = client(visit, headers)
        for _ in range(visit.pages):
            get(path)
            visit.seen += 1
            time.sleep(visit.pace * 2)

    return poll
