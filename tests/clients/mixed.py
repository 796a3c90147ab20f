"""Clients of several kinds ask a web server at the same time, from one address. Each request has its client's kind in path
and User-Agent, and no two have one path: `/KIND/CONNECTION/REQUEST`.

In: the command line. Out: for each connection one line of JSON, `{"kind", "paths", "error", "began", "ended"}`, the times
CLOCK_MONOTONIC seconds. Memory: one answer for each connection.
"""

import argparse
import asyncio
import functools
import http.client
import itertools
import json
import os
import socket
import ssl
import subprocess
import threading
import time
from dataclasses import dataclass

# Requests of one connection after another: many short ones, some long.
SIZES = (1, 6, 1, 12, 2, 1, 5, 1, 3, 8)
_print = threading.Lock()


@dataclass(frozen=True)
class Target:
    """Where to ask, under what name, and how long to wait."""

    address: str
    port: int
    name: str
    timeout: float

    def url(self, path, host=None):
        """Of a path."""
        return f"https://{host or self.name}:{self.port}{path}"


def _run(command):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{command[0]} exited {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def curl(target, agent, paths, *more):
    """curl with the system's OpenSSL over HTTP/2, every other time all requests at once."""
    at_once = ["--parallel"] if len(paths) % 2 == 0 else []
    command = [
        "curl", "--silent", "--show-error", "--insecure", "--noproxy", "*", "--max-time", str(target.timeout),
        "--resolve", f"{target.name}:{target.port}:{target.address}", "--user-agent", agent,
        "--write-out", "%{stderr}%{http_code}\n", *at_once, *(more or ["--http2"]),
    ]  # fmt: skip
    for path in paths:
        command += ["--output", "/dev/null", target.url(path)]
    _run(command)


def old(target, agent, paths, *more):
    """curl without TLS 1.3, over HTTP/1.1."""
    curl(target, agent, paths, "--http1.1", "--tls-max", "1.2", *more)


def gnutls(target, agent, paths):
    """wget, with GnuTLS; it can't be told a server's address beside its name."""
    command = ["wget", "--quiet", "--no-check-certificate", "--no-proxy", "--no-hsts", "--tries=1", "-O", "/dev/null"]
    command += [f"--timeout={target.timeout}", f"--user-agent={agent}", f"--header=Host: {target.name}"]
    _run(command + [target.url(path, target.address) for path in paths])


def _browser(family):
    def ask(target, agent, paths):
        from curl_cffi import CurlOpt, requests

        options = {CurlOpt.RESOLVE: [f"{target.name}:{target.port}:{target.address}"]}
        with requests.Session(impersonate=family, verify=False, curl_options=options, proxies={"all": ""}) as session:
            for path in paths:
                answer = session.get(target.url(path), headers={"User-Agent": agent}, timeout=target.timeout)
                if answer.status_code != 200:
                    raise OSError(f"status {answer.status_code}")

    ask.__doc__ = f"curl_cffi imitating {family} over HTTP/2."
    return ask


def _open(target, port=0, ciphers=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if ciphers:
        context.set_ciphers(ciphers)
    plain = socket.create_connection((target.address, target.port), target.timeout, ("", port))
    return context.wrap_socket(plain, server_hostname=target.name)


def python(target, agent, paths, port=0, ciphers=None):
    """Python's ssl module over HTTP/1.1; the server ends the connection."""
    connection = http.client.HTTPConnection(target.name)
    connection.sock = _open(target, port, ciphers)
    for path in paths:
        last = {"Connection": "close"} if path == paths[-1] else {}
        connection.request("GET", path, headers={"User-Agent": agent, **last})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise OSError(f"status {answer.status}")
    connection.close()


def http3(target, agent, paths, port=0, few=False):
    """aioquic over HTTP/3; one connection on a port of its own."""
    asyncio.run(asyncio.wait_for(_http3(target, agent, paths, port, few), target.timeout))


async def _http3(target, agent, paths, port, few):
    from aioquic.asyncio import QuicConnectionProtocol, connect
    from aioquic.h3.connection import H3_ALPN, H3Connection
    from aioquic.h3.events import HeadersReceived
    from aioquic.quic.configuration import QuicConfiguration
    from aioquic.tls import CipherSuite

    class Client(QuicConnectionProtocol):
        """One connection; `ended` has a future for each request."""

        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.http = H3Connection(self._quic)
            self.ended = {}

        def quic_event_received(self, event):
            for answer in self.http.handle_event(event):
                if isinstance(answer, HeadersReceived) and not (end := self.ended[answer.stream_id]).done():
                    end.set_result(dict(answer.headers)[b":status"])

        def ask(self, path):
            head = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", target.name.encode())]
            stream = self._quic.get_next_available_stream_id()
            self.ended[stream] = asyncio.get_running_loop().create_future()
            self.http.send_headers(
                stream, [*head, (b":path", path.encode()), (b"user-agent", agent.encode())], end_stream=True
            )
            self.transmit()
            return self.ended[stream]

    suites = [CipherSuite.AES_128_GCM_SHA256] if few else None
    configuration = QuicConfiguration(
        alpn_protocols=H3_ALPN, server_name=target.name, verify_mode=ssl.CERT_NONE, cipher_suites=suites
    )
    options = {"configuration": configuration, "create_protocol": Client, "local_port": port}
    async with connect(target.address, target.port, **options) as client:
        for status in await asyncio.gather(*(client.ask(path) for path in paths)):
            if status != b"200":
                raise OSError(f"status {status}")


KINDS = {
    "curl": curl,
    "old": old,
    "gnutls": gnutls,
    "chrome": _browser("chrome"),
    "safari": _browser("safari"),
    "python": python,
    "few": functools.partial(python, ciphers="ECDHE+AESGCM"),
    "http3": http3,
    "http3few": functools.partial(http3, few=True),
}


def tell(kind, paths, ask):
    """Asks over one connection, and says so."""
    began, error = time.monotonic(), None
    try:
        ask(paths)
    except Exception as cause:  # whatever a client library raises is the outcome to tell
        error = f"{type(cause).__name__}: {cause}"
    with _print:
        line = {"kind": kind, "paths": paths, "error": error, "began": began, "ended": time.monotonic()}
        print(json.dumps(line), flush=True)


def numbered(kind, connection, size):
    """The paths of a connection's requests."""
    return [f"/{kind}/{connection}/{request}" for request in range(size)]


def many(target, kind, requests, run):
    """So many requests of one kind, over one connection after the other."""
    for number, size in enumerate(itertools.cycle(SIZES)):
        size, number = min(size, requests), f"{run}{number}"
        agent = f"{kind}/{number}"
        tell(kind, numbered(kind, number, size), lambda paths: KINDS[kind](target, agent, paths))
        requests -= size
        if requests == 0:
            return


def download(target, kind, seconds):
    """A page that takes so long."""
    tell(kind, [f"/slow/{seconds}/{kind}"], lambda paths: KINDS[kind](target, f"{kind}/download", paths))


def websocket(target, kind, seconds):
    """One that says something now and then, for so long."""
    path = f"/socket/{kind}"

    def hold(_):
        with _open(target) as stream:
            key = "dGhlIHNhbXBsZSBub25jZQ=="
            upgrade = f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}"
            head = f"GET {path} HTTP/1.1\r\nHost: {target.name}\r\nUser-Agent: {kind}/socket\r\n{upgrade}\r\n\r\n"
            stream.sendall(head.encode())
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += stream.recv(4096)
            if b" 101 " not in answer:
                raise OSError(answer.decode())
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                # A masked text of two bytes.
                stream.sendall(b"\x81\x82\0\0\0\0hi")
                if not stream.recv(4096):
                    raise OSError("the WebSocket ended")
                time.sleep(0.2)

    tell(kind, [path], hold)


def reuse(target, first, second, ports):
    """On each of these ports a connection of one kind, and at once one of another kind."""

    def from_port(kind, port, paths):
        if kind == "curl":
            return curl(target, "curl/reuse", paths, "--http2", "--local-port", str(port))
        return KINDS[kind](target, f"{kind}/reuse", paths, port=port)

    for port in ports:
        for kind, size in ((first, 2), (second, 3)):
            ask = functools.partial(_when_free, functools.partial(from_port, kind, port))
            tell(kind, numbered(kind, f"{port}-{first}-{second}", size), ask)


def _when_free(ask, paths):
    """The kernel frees a port once the other side has said that it has ended too."""
    until = time.monotonic() + 0.9
    while True:
        try:
            return ask(paths)
        except OSError as error:
            in_use = error.errno in (98, 99) or "curl exited 45" in str(error)
            if not in_use or time.monotonic() > until:
                raise
            time.sleep(0.01)


def main():
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", type=int, default=443)
    parser.add_argument("--name", required=True)
    parser.add_argument("--timeout", type=float, default=150.0)
    parser.add_argument("--kinds", default="", help=f"of {', '.join(KINDS)}; all at the same time")
    parser.add_argument("--run", default="", help="tells the paths of one run from those of another")
    parser.add_argument("--requests", type=int, default=1, help="of each kind")
    parser.add_argument("--reuse", nargs=4, metavar=("FIRST", "SECOND", "PORT", "COUNT"), action="append", default=[])
    parser.add_argument("--download", nargs=2, metavar=("KIND", "SECONDS"), action="append", default=[])
    parser.add_argument("--websocket", nargs=2, metavar=("KIND", "SECONDS"), action="append", default=[])
    given = parser.parse_args()
    os.environ.pop("http_proxy", None)
    os.environ.pop("https_proxy", None)
    target = Target(given.address, given.port, given.name, given.timeout)
    work = [(download, kind, int(seconds)) for kind, seconds in given.download]
    work += [(websocket, kind, int(seconds)) for kind, seconds in given.websocket]
    work += [(many, kind, given.requests, given.run) for kind in given.kinds.split(",") if kind]
    for first, second, port, count in given.reuse:
        work.append((reuse, first, second, range(int(port), int(port) + int(count))))
    threads = [threading.Thread(target=what, args=(target, *more)) for what, *more in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
