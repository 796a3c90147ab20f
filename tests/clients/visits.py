"""One visit to the lab's site by a client of one kind: a browser that is read with, one that is driven, a library, a tool, a
scanner, a crawler.

In: the command line. Out: one line of JSON, `{"kind", "pages", "error"}`. What a kind does, and how long it waits, depends
on its name and on the seed alone. `--list` prints each kind with what it is: `person`, `robot` (a driven browser), `forged`
(says that it is a browser), `imitator` (has a browser's hello), `honest` (says what it is), `crawler` (says that
it is a known one) or `welcome` (a harmless machine).
"""

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field

CHROME = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/150.0.0.0 Safari/537.36"
)
# Headers as many a script has them that says it is Chrome.
FORGED = {
    "User-Agent": CHROME,
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Accept-Language": "en-US,en;q=0.9",
    "Accept-Encoding": "gzip, deflate",
}
LINUX_CHROME = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/%s.0.0.0 Safari/537.36"
LINUX_FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:%s.0) Gecko/20100101 Firefox/%s.0"
GOOGLEBOT = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"
BINGBOT = "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)"
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
    visited: list = field(default_factory=list)

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

    def reading(self):
        """How long a person looks at a page, in seconds: a second at least, seldom more than twenty."""
        return min(1 + self.dice.lognormvariate(1.2, 0.7), 20)


# Libraries: each gives a function that gets a path and returns the body.


def requests(visit, headers):
    """The library of that name."""
    import requests as library

    session = library.Session()
    session.headers.update(headers or {})
    return lambda path: session.get(visit.url(path), timeout=30).text


def httpx(visit, headers):
    """Over HTTP/2."""
    import httpx as library

    client = library.Client(http2=True, headers=headers, timeout=30)
    return lambda path: client.get(visit.url(path)).text


def aiohttp(visit, headers):
    """One session, run step by step."""
    import aiohttp as library

    loop = asyncio.new_event_loop()

    async def start():
        return library.ClientSession(headers=headers, trust_env=True)

    async def get(path):
        async with session.get(visit.url(path)) as answer:
            return await answer.text()

    session = loop.run_until_complete(start())
    return lambda path: loop.run_until_complete(get(path))


def urllib(visit, headers):
    """Of the standard library: a connection for each request."""
    from urllib import request

    def get(path):
        with request.urlopen(request.Request(visit.url(path), headers=headers or {}), timeout=30) as answer:
            return answer.read().decode()

    return get


def imitator(profile, agent=None):
    """curl_cffi with a browser's hello and headers; `agent` in place of the profile's own."""

    def client(visit, _):
        from curl_cffi import requests as library

        session = library.Session(impersonate=profile)
        headers = {"User-Agent": agent} if agent else {}
        if agent and "Chrome" in agent:
            headers["sec-ch-ua-platform"] = '"Linux"'
        return lambda path: session.get(visit.url(path), headers=headers, timeout=30).text

    return client


def program(*command):
    """A command line tool, once for each page. `{url}` and `{agent}` are filled in."""

    def client(visit, headers):
        agent = (headers or {}).get("User-Agent")

        def get(path):
            words = [word.replace("{url}", visit.url(path)) for word in command]
            if agent:
                words = [word.replace("{agent}", agent) for word in words]
            else:
                words = [word for word in words if "{agent}" not in word]
            done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
            if done.returncode != 0:
                raise OSError(f"{words[0]} exited {done.returncode}: {done.stderr.strip()[:200]}")
            return done.stdout

        return get

    return client


NODE = """
const https = require("https");
const agent = new https.Agent({ keepAlive: true });
const get = (url, headers) => new Promise((done, fail) =>
  https.get(url, { agent, headers }, (answer) => answer.resume().on("end", done)).on("error", fail));
(async () => {
  const [headers, pause, ...urls] = JSON.parse(process.argv[1]);
  for (const url of urls) { await get(url, headers); await new Promise((done) => setTimeout(done, pause)); }
  agent.destroy();
})();
"""
PERL = """
use HTTP::Tiny;
my ($agent, $pause, @urls) = @ARGV;
my $client = HTTP::Tiny->new(length $agent ? (agent => $agent) : (), verify_SSL => 1);
for (@urls) { $client->get($_); select(undef, undef, undef, $pause); }
"""


def numbered(visit):
    """The URLs of a crawl."""
    visit.seen = visit.pages
    return [visit.url(f"/page/{number}/") for number in range(1, visit.pages + 1)]


def node(visit, headers):
    """Node's https module, one connection."""
    told = json.dumps([headers or {}, visit.pace * 1000, *numbered(visit)])
    subprocess.run(["node", "-e", NODE, told], check=True, capture_output=True, timeout=300)


def perl(visit, headers):
    """HTTP::Tiny."""
    agent = (headers or {}).get("User-Agent", "")
    command = ["perl", "-e", PERL, agent, str(visit.pace), *numbered(visit)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)


def crawling(client, headers=None):
    """A library that crawls."""
    return lambda visit: visit.crawl(client(visit, headers))


def wandering(client, headers=None):
    """A library that follows links."""
    return lambda visit: visit.wander(client(visit, headers))


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


def bench(visit):
    """Apache's load generator."""
    subprocess.run(["ab", "-q", "-n", "50", "-c", "5", visit.url("/page/1/")], check=True, capture_output=True, timeout=60)
    visit.seen = 50


def gobuster(visit):
    """A scanner, in Go: tries names."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as names:
        names.write("\n".join(path.strip("/") for path in PROBES * 2))
        names.flush()
        command = ["gobuster", "dir", "-q", "-k", "-t", "4", "-w", names.name, "-u", visit.url("/")]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    visit.seen = len(PROBES)


# Browsers.


def chromium(script, headless=False, agent=None):
    """Chromium, on a display of its own unless it is headless."""

    def visit_with(visit):
        from browsers import Chromium

        with Chromium(visit.name, headless, agent) as browser:
            script(visit, browser)

    return visit_with


def firefox(script):
    """Firefox; without a window it says nothing of that."""

    def visit_with(visit):
        from browsers import Firefox

        with Firefox() as browser:
            script(visit, browser)

    return visit_with


def read(visit, browser):
    """A person: from page to page by clicking on links, and reading; once in a while back."""
    browser.open(visit.url("/"))
    for number in range(visit.pages):
        visit.seen += 1
        time.sleep(visit.reading() * visit.pace)
        if number > 1 and visit.dice.random() < 0.15:
            browser.back()
        elif number < visit.pages - 1:
            browser.click(visit.dice.randrange(6))


def drive(visit, browser):
    """A script: one page after the other as they are numbered, by address."""
    for number in range(1, visit.pages + 1):
        browser.open(visit.url(f"/page/{number}/"))
        visit.seen += 1
        time.sleep(visit.pace / 2)


def curl(*more):
    """curl, once for each page."""
    return program("curl", "--silent", "--max-time", "30", *more, "{url}")


def wget(*more):
    """wget, with GnuTLS, once for each page."""
    return program("wget", "-qO-", "--tries=1", "--timeout=30", "--no-check-certificate", "--no-hsts", *more, "{url}")


def _forged_curl():
    return curl("--user-agent", "{agent}", "--header", "Accept-Language: en-US,en;q=0.9", "--http2")


KINDS = {
    "chromium-reader": ("person", chromium(read)),
    "firefox-reader": ("person", firefox(read)),
    "chromium-driven": ("robot", chromium(drive)),
    "firefox-driven": ("robot", firefox(drive)),
    "chromium-headless": ("robot", chromium(drive, headless=True)),
    "chromium-headless-forged": ("robot", chromium(drive, headless=True, agent=CHROME)),
    **{f"imitator-{profile}": ("imitator", crawling(imitator(profile))) for profile in (
        "chrome110", "chrome120", "chrome131", "chrome142", "edge101", "safari170", "safari184_ios", "firefox133",
        "firefox144", "tor145",
    )},
    "imitator-linux-chrome": ("imitator", crawling(imitator("chrome142", LINUX_CHROME % 142))),
    "imitator-linux-firefox": ("imitator", crawling(imitator("firefox144", LINUX_FIREFOX % (144, 144)))),
    "imitator-linux-wandering": ("imitator", wandering(imitator("chrome142", LINUX_CHROME % 142))),
    "imitator-once": ("imitator", once(imitator("chrome142", LINUX_CHROME % 142))),
    "requests-forged": ("forged", crawling(requests, FORGED)),
    "requests-wandering": ("forged", wandering(requests, FORGED)),
    "requests-once": ("forged", once(requests, FORGED)),
    "httpx-forged": ("forged", crawling(httpx, FORGED)),
    "aiohttp-forged": ("forged", crawling(aiohttp, FORGED)),
    "urllib-forged": ("forged", crawling(urllib, FORGED)),
    "node-forged": ("forged", whole(node, FORGED)),
    "perl-forged": ("forged", whole(perl, FORGED)),
    "curl-forged": ("forged", crawling(_forged_curl(), FORGED)),
    "wget-forged": ("forged", crawling(wget("--user-agent={agent}"), FORGED)),
    "requests": ("honest", crawling(requests)),
    "httpx": ("honest", crawling(httpx)),
    "node": ("honest", whole(node)),
    "perl": ("honest", whole(perl)),
    "curl": ("honest", crawling(curl())),
    "wget": ("honest", crawling(wget())),
    "lynx": ("honest", wandering(program("lynx", "-source", "{url}"))),
    "w3m": ("honest", wandering(program("w3m", "-dump_source", "{url}"))),
    "ab": ("honest", bench),
    "gobuster": ("honest", gobuster),
    "probes": ("forged", probing(requests, FORGED)),
    "false-googlebot": ("crawler", crawling(requests, {"User-Agent": GOOGLEBOT})),
    "false-bingbot": ("crawler", crawling(curl("--user-agent", "{agent}"), {"User-Agent": BINGBOT})),
    "feed-reader": ("welcome", polling(requests, "/feed.xml", {"User-Agent": "FreshRSS/1.24 (Linux; https://freshrss.org)"})),
    "health-check": ("welcome", polling(curl("--user-agent", "{agent}"), "/health", {"User-Agent": "kube-probe/1.30"})),
}  # fmt: skip


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
        print(json.dumps({kind: what for kind, (what, _) in KINDS.items()}))
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
