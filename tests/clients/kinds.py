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
import struct
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
    source = (target.source, 0) if target.source else None
    with socket.create_connection((target.address, target.port), target.timeout, source) as plain:
        port = plain.getsockname()[1]
        with _without_alpn().wrap_socket(plain, server_hostname=target.name) as stream:
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


def _without_alpn():
    # The hello of ssl.create_default_context(), which takes 60 ms to read the system's certificates.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _alpn_context():
    context = _without_alpn()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _over(plain, target):
    """The request over a connected socket, with a hello that `python` doesn't send."""
    port = plain.getsockname()[1]
    with _alpn_context().wrap_socket(plain, server_hostname=target.name) as stream:
        stream.sendall(target.request)
        return port, _status(stream.makefile("rb").read(), "closed without an answer")


def fastopen(target):
    """Python's ssl over TCP Fast Open: from the second connection on, the hello is in the SYN."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    stream = _alpn_context().wrap_bio(incoming, outgoing, server_hostname=target.name)
    with socket.socket(socket.AF_INET6 if ":" in target.address else socket.AF_INET) as plain:
        if target.source:
            plain.bind((target.source, 0))
        # Blocking with limits of the kernel's: settimeout() would make the SYN's send fail with EINPROGRESS.
        for direction in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            plain.setsockopt(socket.SOL_SOCKET, direction, struct.pack("ll", int(target.timeout), 0))

        def until_done(step):
            while True:
                try:
                    result = step()
                except ssl.SSLWantReadError:
                    result = None
                if outgoing.pending:
                    data = outgoing.read()
                    if until_done.open:
                        plain.sendall(data)
                    else:
                        plain.sendto(data, _MSG_FASTOPEN, (target.address, target.port))
                        until_done.open = True
                if result is not None:
                    return result
                received = plain.recv(65536)
                incoming.write(received) if received else incoming.write_eof()

        until_done.open = False
        until_done(lambda: stream.do_handshake() or True)
        stream.write(target.request)
        return plain.getsockname()[1], _status(until_done(lambda: stream.read(65536)), "closed without an answer")


# linux/tcp.h
_TCP_REPAIR, _TCP_REPAIR_QUEUE, _TCP_QUEUE_SEQ, _TCP_TIMESTAMP = 19, 20, 21, 24
_MSG_FASTOPEN = 0x20000000


def decoy_hello():
    """A ClientHello that no client here sends: TLS 1.2 only, one cipher suite."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
    return first_flight(context, "decoy.example")


def first_flight(context, name):
    """What a client with this context sends first."""
    outgoing = ssl.MemoryBIO()
    stream = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    try:
        stream.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def checksum(data):
    """RFC 1071."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _decoy(fault):
    """Connects, sends a decoy hello that Linux discards, then does as `fastopen` without Fast Open."""

    def connect(target):
        source = (target.source, 0) if target.source else None
        with socket.create_connection((target.address, target.port), target.timeout, source) as plain:
            _send_decoy(plain, fault)
            return _over(plain, target)

    return connect


def takeover(target):
    """Asks twice over one connection; between, somebody forges hellos of `python` on its 4-tuple."""
    context = _alpn_context()
    context.set_ciphers("ECDHE+AESGCM")
    with socket.create_connection((target.address, target.port), target.timeout) as plain:
        (source, sport), (destination, dport) = plain.getsockname()[:2], plain.getpeername()[:2]
        with context.wrap_socket(plain, server_hostname=target.name) as stream:
            stream.sendall(target.request.replace(b"Connection: close", b"Connection: keep-alive"))
            answer = stream.recv(65536)
            if (first := _status(answer, "closed without an answer")) != 200:
                raise Failed(f"{first} before anything was forged")
            while b"\r\n\r\n" not in answer:
                answer += stream.recv(65536)
            hello = first_flight(_without_alpn(), "decoy.example")
            pseudo = socket.inet_aton(source) + socket.inet_aton(destination)
            with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
                raw.bind((source, 0))
                other = random.getrandbits(32)
                # A hello out of nowhere; one after a SYN with a number of its own.
                for seq, flags, payload in ((other ^ 1 << 31, 0x18, hello), (other, 2, b""), (other + 1, 0x18, hello)):
                    header = struct.pack("!HHIIBBHHH", sport, dport, seq & 0xFFFFFFFF, 1, 0x50, flags, 500, 0, 0)
                    length = struct.pack("!HH", socket.IPPROTO_TCP, len(header) + len(payload))
                    right = struct.pack("!H", checksum(pseudo + length + header + payload))
                    raw.sendto(header[:16] + right + header[18:] + payload, (destination, 0))
            stream.sendall(target.request)
            return sport, _status(stream.makefile("rb").read(), "closed after hellos were forged")


def _send_decoy(plain, fault):
    (source, sport), (destination, dport) = plain.getsockname(), plain.getpeername()
    tcp = socket.IPPROTO_TCP
    # Repair mode tells the numbers the connection stands at; -1 leaves it without sending a window probe.
    plain.setsockopt(tcp, _TCP_REPAIR, 1)
    numbers = []
    for queue in (2, 1):
        plain.setsockopt(tcp, _TCP_REPAIR_QUEUE, queue)
        numbers.append(plain.getsockopt(tcp, _TCP_QUEUE_SEQ) & 0xFFFFFFFF)
    timestamp = plain.getsockopt(tcp, _TCP_TIMESTAMP) & 0xFFFFFFFF
    plain.setsockopt(tcp, _TCP_REPAIR, -1)
    if fault == "timestamp":
        timestamp = (timestamp - 100_000) & 0xFFFFFFFF
    payload = decoy_hello()
    options = struct.pack("!BBBBII", 1, 1, 8, 10, timestamp, 0)
    header = struct.pack("!HHIIBBHHH", sport, dport, *numbers, 0x80, 0x18, 500, 0, 0) + options
    pseudo = socket.inet_aton(source) + socket.inet_aton(destination) + struct.pack("!HH", tcp, 32 + len(payload))
    right = checksum(pseudo + header + payload)
    sent = right ^ 0x0F0F if fault == "checksum" else right
    segment = header[:16] + struct.pack("!H", sent) + header[18:] + payload
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, tcp) as raw:
        raw.bind((source, 0))
        raw.sendto(segment, (destination, 0))


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
    "fastopen": fastopen,
    "decoychecksum": _decoy("checksum"),
    "decoytimestamp": _decoy("timestamp"),
    "takeover": takeover,
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
