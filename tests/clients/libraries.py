"""Libraries and tools that visit the lab's site. Each takes a visit and headers, and gives a function that gets a path and
returns the body; or it makes the whole visit itself.
"""

import asyncio
import json
import os
import subprocess
import tempfile

from ways import PROBES, numbered


def requests(visit, headers):
    """The library of that name."""
    import requests as library

    session = library.Session()
    session.headers.update(headers or {})
    return lambda path: session.get(visit.url(path), timeout=30).text


def httpx(version):
    """Over HTTP/1.1 or HTTP/2."""

    def client(visit, headers):
        import httpx as library

        client = library.Client(http2=version == 2, headers=headers, timeout=30)
        return lambda path: client.get(visit.url(path)).text

    return client


def urllib3(visit, headers):
    """What most of Python's libraries are made of."""
    import urllib3 as library

    pool = library.PoolManager(ca_certs=os.environ["SSL_CERT_FILE"], headers=headers, timeout=30)
    return lambda path: pool.request("GET", visit.url(path)).data.decode()


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
        own = {"User-Agent": agent} if agent else {}
        if agent and "Chrome" in agent:
            own["sec-ch-ua-platform"] = '"Linux"'
        return lambda path, more=None: session.get(visit.url(path), headers={**own, **(more or {})}, timeout=30).text

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
my ($pause, $agent, @urls) = @ARGV;
my $client = HTTP::Tiny->new(length $agent ? (agent => $agent) : (), verify_SSL => 1);
for (@urls) { $client->get($_); select(undef, undef, undef, $pause); }
"""


FETCH = """
(async () => {
  const [headers, pause, ...urls] = JSON.parse(process.argv[1]);
  for (const url of urls) { await (await fetch(url, { headers })).text(); await new Promise((done) => setTimeout(done, pause)); }
})();
"""
RUBY = """
require "net/http"
pause, agent, *urls = ARGV
site = URI(urls.first)
Net::HTTP.start(site.host, site.port, use_ssl: true, ca_file: ENV["SSL_CERT_FILE"]) do |http|
  urls.each { |url| http.get(URI(url).path, agent.empty? ? {} : { "User-Agent" => agent }); sleep pause.to_f }
end
"""
PHP = """
[, $pause, $agent] = $argv;
$http = $agent === "" ? [] : ["user_agent" => $agent];
$context = stream_context_create(["http" => $http, "ssl" => ["cafile" => getenv("SSL_CERT_FILE")]]);
foreach (array_slice($argv, 3) as $url) {
  if (file_get_contents($url, false, $context) === false) exit(1);
  usleep((int) ($pause * 1e6));
}
"""
LWP = """
use LWP::UserAgent;
my ($pause, $agent, @urls) = @ARGV;
my $client = LWP::UserAgent->new(keep_alive => 1, ssl_opts => { SSL_ca_file => $ENV{SSL_CERT_FILE} });
$client->agent($agent) if length $agent;
for (@urls) { $client->get($_)->is_success or exit 1; select(undef, undef, undef, $pause); }
"""


def script(*command):
    """A program that gets its pause, its User-Agent or nothing, and the URLs, and takes them one by one."""

    def visit_with(visit, headers):
        words = [*command, str(visit.pace), (headers or {}).get("User-Agent", ""), *numbered(visit)]
        subprocess.run(words, check=True, capture_output=True, timeout=300)

    return visit_with


def node(visit, headers, program=None):
    """Node's https module, one connection."""
    told = json.dumps([headers or {}, visit.pace * 1000, *numbered(visit)])
    subprocess.run(["node", "-e", program or NODE, told], check=True, capture_output=True, timeout=300)


def fetch(visit, headers):
    """Node's own fetch, which is undici."""
    node(visit, headers, FETCH)


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


def tls(visit, headers):
    """Lines typed into OpenSSL's own client, one connection for each."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())

    def get(path):
        asked = f"GET {path} HTTP/1.1\r\nHost: {visit.name}\r\n{lines}Connection: close\r\n\r\n"
        command = ["openssl", "s_client", "-quiet", "-connect", f"{visit.name}:443", "-servername", visit.name]
        done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=60, check=False)
        if "200 OK" not in done.stdout:
            raise OSError(f"openssl said: {done.stdout[:100]}{done.stderr[-100:]}")
        return done.stdout

    return get


def curl(*more):
    """curl, once for each page."""
    return program("curl", "--silent", "--max-time", "30", *more, "{url}")


def wget(*more):
    """wget, with GnuTLS, once for each page."""
    return program("wget", "-qO-", "--tries=1", "--timeout=30", "--no-check-certificate", "--no-hsts", *more, "{url}")
