"""One TLS or QUIC connection by each kind of client.

In: a Target (where to connect, from where, how long to wait). Out: (local port or None, HTTP status), or an exception
whose text is the error. Each call makes one fresh connection, asks for `/` and reads the whole answer; no session
is resumed, no certificate is checked (the server's is self-made). Memory: one small answer.
"""

import asyncio
import itertools
import random
import socket
import ssl
import subprocess
from dataclasses import dataclass
from typing import Optional


@dataclass(frozen=True)
class Target:
    """Where a connection goes, and how."""

    address: str
    port: int
    name: str
    timeout: float
    source: Optional[str]

    @property
    def bracketed(self):
        """The address as it stands in a URL."""
        return f"[{self.address}]" if ":" in self.address else self.address

    @property
    def request(self):
        """A request after whose answer the server closes."""
        return (
            f"GET / HTTP/1.1\r\nHost: {self.name}\r\nUser-Agent: detector-tests\r\nConnection: close\r\n\r\n"
        ).encode()


class Failed(Exception):
    """A connection that brought no HTTP answer."""


# openssl s_client doesn't say which port it got, so it is told one, below the range the kernel gives out (32768 up).
_openssl_ports = itertools.cycle(random.sample(range(10_000, 30_000), 20_000))


def curl(target):
    """curl with the system's OpenSSL: h2 and http/1.1 in ALPN."""
    command = [
        "curl", "--silent", "--insecure", "--noproxy", "*", "--output", "/dev/null",
        "--max-time", str(target.timeout),
        "--resolve", f"{target.name}:{target.port}:{target.bracketed}",
        "--write-out", "%{local_port} %{http_code} %{errormsg}",
    ]  # fmt: skip
    if target.source:
        command += ["--interface", target.source]
    command.append(f"https://{target.name}:{target.port}/")
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    port, status, error = (done.stdout.split(" ", 2) + ["", "", ""])[:3]
    if done.returncode != 0 or not status.isdigit():
        raise Failed(f"curl exited {done.returncode}: {error or done.stderr.strip()}")
    return int(port), int(status)


def openssl(target):
    """openssl s_client: no ALPN, OpenSSL's default hello."""
    port = next(_openssl_ports)
    source = target.source or _source_towards(target)
    bind = f"[{source}]:{port}" if ":" in source else f"{source}:{port}"
    command = [
        "openssl", "s_client", "-quiet", "-connect", f"{target.bracketed}:{target.port}",
        "-servername", target.name, "-bind", bind,
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, input=target.request, capture_output=True, timeout=target.timeout, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Failed("openssl s_client timed out") from error
    return port, _status(done.stdout, done.stderr.decode(errors="replace"))


def python(target):
    """Python's own ssl module."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    source = (target.source, 0) if target.source else None
    with socket.create_connection((target.address, target.port), target.timeout, source) as plain:
        port = plain.getsockname()[1]
        with context.wrap_socket(plain, server_hostname=target.name) as stream:
            stream.sendall(target.request)
            return port, _status(stream.makefile("rb").read(), "closed without an answer")


def _browser(family):
    """curl_cffi, imitating the newest browser of a family that it knows."""

    def connect(target):
        from curl_cffi import CurlOpt, requests

        options = {CurlOpt.RESOLVE: [f"{target.name}:{target.port}:{target.bracketed}"]}
        answer = requests.get(
            f"https://{target.name}:{target.port}/",
            impersonate=family,
            timeout=target.timeout,
            verify=False,
            interface=target.source,
            proxies={"all": ""},
            curl_options=options,
        )
        return answer.local_port, answer.status_code

    connect.__doc__ = f"curl_cffi imitating {family}."
    return connect


def _http3(version):
    """aioquic over one version of QUIC."""

    def fetch(target):
        if target.source:
            raise Failed("aioquic can't be told its own address")
        return asyncio.run(asyncio.wait_for(_http3_get(target, version), target.timeout))

    fetch.__doc__ = f"aioquic, QUIC version {version}."
    return fetch


async def _http3_get(target, version):
    from aioquic.asyncio import QuicConnectionProtocol, connect
    from aioquic.h3.connection import H3_ALPN, H3Connection
    from aioquic.h3.events import HeadersReceived
    from aioquic.quic.configuration import QuicConfiguration
    from aioquic.quic.packet import QuicProtocolVersion

    class Client(QuicConnectionProtocol):
        """One connection with one request."""

        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.http = H3Connection(self._quic)
            self.status = asyncio.get_running_loop().create_future()

        def quic_event_received(self, event):
            for answer in self.http.handle_event(event):
                if isinstance(answer, HeadersReceived) and not self.status.done():
                    self.status.set_result(int(dict(answer.headers)[b":status"]))

        def ask(self, path):
            names = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", target.name.encode())]
            stream = self._quic.get_next_available_stream_id()
            self.http.send_headers(stream, [*names, (b":path", path)], end_stream=True)
            self.transmit()

    configuration = QuicConfiguration(
        alpn_protocols=H3_ALPN,
        server_name=target.name,
        verify_mode=ssl.CERT_NONE,
        supported_versions=[QuicProtocolVersion[f"VERSION_{version}"]],
    )
    options = {
        "configuration": configuration,
        "create_protocol": Client,
        # As a client does that resumes: only then aioquic says which kinds of resumption it knows.
        "session_ticket_handler": lambda ticket: None,
    }
    async with connect(target.address, target.port, **options) as client:
        port = client._transport.get_extra_info("sockname")[1]
        client.ask(b"/")
        return port, await client.status


KINDS = {
    "curl": curl,
    "openssl": openssl,
    "python": python,
    "chrome": _browser("chrome"),
    "firefox": _browser("firefox"),
    "safari": _browser("safari"),
    "aioquic": _http3(1),
    "aioquic_v2": _http3(2),
}


def _source_towards(target):
    """This host's address on the way to the server: a UDP socket learns it without sending."""
    family = socket.AF_INET6 if ":" in target.address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((target.address, target.port))
        return probe.getsockname()[0]


def _status(answer, otherwise):
    """The status code of an HTTP/1.1 answer."""
    words = answer.split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        raise Failed(otherwise.strip().splitlines()[-1] if otherwise.strip() else "no answer")
    return int(words[1])
