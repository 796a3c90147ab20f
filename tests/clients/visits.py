"""One visit to the lab's site by a client of one kind: a browser that is read with, one that is driven, a library, a tool, a
scanner, a crawler.

In: the command line. Out: one line of JSON, `{"kind", "pages", "error"}`. What a kind does, and how long it waits, depends
on its name and on the seed alone. `--list` prints each kind with what it is: `person`, `robot` (a driven browser, or what
does all that one does), `forged` (says that it is a browser), `imitator` (has a browser's hello), `honest` (says what it
is), `crawler` (says that it is a known one) or `welcome` (a harmless machine); whether it is a real browser with an engine;
and whether it is held out: nobody looks at what is made of such a kind while weights and thresholds are chosen.
"""

import argparse
import json
import random
import sys

from libraries import (
    LWP, PERL, PHP, RUBY, aiohttp, bench, curl, fetch, gobuster, httpx, imitator, node, program, requests, script, tls, urllib,
    urllib3, wget,
)  # fmt: skip
from people import (
    chromium, click_on, drive, drive_about, firefox, glance, leave_open, look_through, open_tabs, pause, read, read_to_and_fro,
    reload, scroll, text, type_in,
)  # fmt: skip
from ways import (
    Visit, anew, articles, crawling, following, once, polling, probing, shuffling, wandering, whole,
)  # fmt: skip

CHROME = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/150.0.0.0 Safari/537.36"
)
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:147.0) Gecko/20100101 Firefox/147.0"
# Headers as many a script has them that says it is Chrome.
FORGED = {
    "User-Agent": CHROME,
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Accept-Language": "en-US,en;q=0.9",
    "Accept-Encoding": "gzip, deflate",
}
# All that Firefox sends, as it sends it.
WHOLE = {
    "User-Agent": FIREFOX,
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language": "en-US,en;q=0.5",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Upgrade-Insecure-Requests": "1",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Site": "none",
    "Sec-Fetch-User": "?1",
    "Priority": "u=0, i",
}
LINUX_CHROME = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/%s.0.0.0 Safari/537.36"
LINUX_FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:%s.0) Gecko/20100101 Firefox/%s.0"
GOOGLEBOT = {"User-Agent": "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"}
BINGBOT = {"User-Agent": "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)"}
AHREFS = {"User-Agent": "Mozilla/5.0 (compatible; AhrefsBot/7.0; +http://ahrefs.com/robot/)"}
FRESHRSS = {"User-Agent": "FreshRSS/1.24 (Linux; https://freshrss.org)"}
NAMED = ("--user-agent", "{agent}")


def _linux_chrome():
    return imitator("chrome142", LINUX_CHROME % 142)


def _curl_with(headers):
    return curl("--http2", *(word for name, value in headers.items() for word in ("--header", f"{name}: {value}")))


# Weights and thresholds were chosen by looking at these.
TUNED = {
    "chromium-reader": ("person", chromium(read)),
    "chromium-looks-through": ("person", chromium(look_through)),
    "chromium-left-open": ("person", chromium(leave_open)),
    "firefox-reader": ("person", firefox(read)),
    "firefox-no-referers": ("person", firefox(look_through, **{"network.http.sendRefererHeader": 0})),
    "lynx-reader": ("person", text(read, "lynx")),
    "chromium-driven": ("robot", chromium(drive)),
    "firefox-driven": ("robot", firefox(drive)),
    "chromium-headless": ("robot", chromium(drive, headless=True)),
    "chromium-headless-forged": ("robot", chromium(drive, headless=True, agent=CHROME)),
    **{f"imitator-{profile}": ("imitator", crawling(imitator(profile))) for profile in (
        "chrome110", "chrome120", "chrome131", "chrome142", "edge101", "safari170", "safari184_ios", "firefox133",
        "firefox144", "tor145",
    )},
    "imitator-linux-chrome": ("imitator", crawling(_linux_chrome())),
    "imitator-linux-firefox": ("imitator", crawling(imitator("firefox144", LINUX_FIREFOX % (144, 144)))),
    "imitator-linux-wandering": ("imitator", wandering(_linux_chrome())),
    "imitator-once": ("imitator", once(_linux_chrome())),
    "requests-forged": ("forged", crawling(requests, FORGED)),
    "requests-wandering": ("forged", wandering(requests, FORGED)),
    "requests-once": ("forged", once(requests, FORGED)),
    "httpx-forged": ("forged", crawling(httpx(2), FORGED)),
    "aiohttp-forged": ("forged", crawling(aiohttp, FORGED)),
    "urllib-forged": ("forged", crawling(urllib, FORGED)),
    "node-forged": ("forged", whole(node, FORGED)),
    "perl-forged": ("forged", whole(script("perl", "-e", PERL), FORGED)),
    "curl-forged": ("forged", crawling(curl(*NAMED, "--header", "Accept-Language: en-US,en;q=0.9", "--http2"), FORGED)),
    "wget-forged": ("forged", crawling(wget("--user-agent={agent}"), FORGED)),
    "probes": ("forged", probing(requests, FORGED)),
    "requests": ("honest", crawling(requests)),
    "httpx": ("honest", crawling(httpx(2))),
    "node": ("honest", whole(node)),
    "perl": ("honest", whole(script("perl", "-e", PERL))),
    "curl": ("honest", crawling(curl())),
    "wget": ("honest", crawling(wget())),
    "lynx": ("honest", wandering(program("lynx", "-source", "{url}"))),
    "w3m": ("honest", wandering(program("w3m", "-dump_source", "{url}"))),
    "ab": ("honest", bench),
    "gobuster": ("honest", gobuster),
    "false-googlebot": ("crawler", crawling(requests, GOOGLEBOT)),
    "false-bingbot": ("crawler", crawling(curl(*NAMED), BINGBOT)),
    "feed-reader": ("welcome", polling(requests, "/feed.xml", FRESHRSS)),
    "health-check": ("welcome", polling(curl(*NAMED), "/health", {"User-Agent": "kube-probe/1.30"})),
}  # fmt: skip

# These are told of only.
HELD = {
    "chromium-to-and-fro": ("person", chromium(read_to_and_fro)),
    "chromium-tabs": ("person", chromium(open_tabs)),
    "chromium-types": ("person", chromium(type_in)),
    "chromium-reloads": ("person", chromium(reload)),
    "chromium-pauses": ("person", chromium(pause)),
    "chromium-scrolls": ("person", chromium(scroll)),
    "chromium-no-images": ("person", chromium(read, "--blink-settings=imagesEnabled=false")),
    "chromium-once": ("person", chromium(glance)),
    "firefox-private": ("person", firefox(read, **{"browser.privatebrowsing.autostart": True})),
    "firefox-no-scripts": ("person", firefox(read, **{"javascript.enabled": False})),
    "firefox-types": ("person", firefox(type_in)),
    "firefox-once": ("person", firefox(glance)),
    "w3m-reader": ("person", text(read, "w3m")),
    "chromium-clicked": ("robot", chromium(click_on)),
    "firefox-driven-about": ("robot", firefox(drive_about)),
    "copy-of-a-person": ("robot", following(_linux_chrome(), assets=True)),
    "imitator-chrome136": ("imitator", crawling(imitator("chrome136"))),
    "imitator-chrome131_android": ("imitator", wandering(imitator("chrome131_android"))),
    "imitator-safari260": ("imitator", shuffling(imitator("safari260"))),
    "imitator-firefox135": ("imitator", shuffling(imitator("firefox135"))),
    "imitator-linux-shuffled": ("imitator", shuffling(_linux_chrome())),
    "imitator-linux-anew": ("imitator", anew(_linux_chrome())),
    "imitator-linux-follows": ("imitator", following(_linux_chrome())),
    "imitator-safari-once": ("imitator", once(imitator("safari184"))),
    "httpx1-forged": ("forged", shuffling(httpx(1), FORGED)),
    "urllib3-forged": ("forged", wandering(urllib3, FORGED)),
    "fetch-forged": ("forged", whole(fetch, FORGED)),
    "curl-whole": ("forged", wandering(_curl_with(WHOLE))),
    "curl-whole-once": ("forged", once(_curl_with(WHOLE))),
    "openssl-forged": ("forged", wandering(tls, FORGED)),
    "ruby-forged": ("forged", whole(script("ruby", "-e", RUBY), FORGED)),
    "php-forged": ("forged", whole(script("php", "-r", PHP, "--"), FORGED)),
    "lwp-forged": ("forged", whole(script("perl", "-e", LWP), FORGED)),
    "ruby": ("honest", whole(script("ruby", "-e", RUBY))),
    "php": ("honest", whole(script("php", "-r", PHP, "--"))),
    "lwp": ("honest", whole(script("perl", "-e", LWP))),
    "false-ahrefs": ("crawler", crawling(urllib3, AHREFS)),
    "feed-articles": ("welcome", articles(requests, FRESHRSS)),
}  # fmt: skip

KINDS = {**TUNED, **HELD}


def told(kind):
    """What is said of a kind."""
    return {"what": KINDS[kind][0], "browser": kind.startswith(("chromium", "firefox")), "held": kind in HELD}


def main():
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the kinds")
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--name", help="the site's")
    parser.add_argument("--pages", type=int, default=12)
    parser.add_argument("--pace", type=float, default=1.0, help="pauses are as many times as long")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.list:
        print(json.dumps({kind: told(kind) for kind in KINDS}))
        return
    visit = Visit(given.name, given.pages, given.pace, random.Random(f"{given.kind}/{given.seed}"))
    error = None
    try:
        KINDS[given.kind][1](visit)
    except Exception as cause:  # whatever a client raises is the outcome to tell; a block looks like that too
        error = f"{type(cause).__name__}: {cause}"
    print(json.dumps({"kind": given.kind, "pages": visit.seen, "error": error}))


if __name__ == "__main__":
    sys.exit(main())
