"""An HTTP/3 server on UDP port 443 of all addresses. Prints `ready`, and then the client's port of each handshake, as
soon as that is complete.

In: the command line. A request for `/N` is answered with a page of N pictures, each of a host of its own
(`shop1.example` …), so that a browser that loads it makes N more connections.
"""

import argparse
import asyncio
import socket

from aioquic.asyncio import QuicConnectionProtocol
from aioquic.asyncio.server import QuicServer
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import HandshakeCompleted, ProtocolNegotiated


class Protocol(QuicConnectionProtocol):
    """One connection."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self._http = None
        self._client = None

    def datagram_received(self, data, addr):
        self._client = addr
        super().datagram_received(data, addr)

    def quic_event_received(self, event):
        if isinstance(event, HandshakeCompleted):
            print(self._client[1], flush=True)
        elif isinstance(event, ProtocolNegotiated):
            self._http = H3Connection(self._quic)
        if self._http is not None:
            for request in self._http.handle_event(event):
                if isinstance(request, HeadersReceived) and request.stream_ended:
                    self._answer(request)

    def _answer(self, request):
        path = dict(request.headers).get(b":path", b"/").decode().strip("/")
        pictures = int(path) if path.isdigit() else 0
        page = "".join(f"<img src=https://shop{number}.example/>" for number in range(1, pictures + 1))
        headers = [(b":status", b"200"), (b"content-type", b"text/html")]
        self._http.send_headers(request.stream_id, headers)
        self._http.send_data(request.stream_id, f"<!doctype html>{page}\n".encode(), end_stream=True)
        self.transmit()


async def serve(arguments):
    """Runs until it is killed."""
    configuration = QuicConfiguration(alpn_protocols=H3_ALPN, is_client=False)
    configuration.load_cert_chain(arguments.certificate, arguments.key)
    # Both families, and room for a burst of hellos.
    listener = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    listener.bind(("::", 443))

    def server():
        return QuicServer(configuration=configuration, create_protocol=Protocol, retry=arguments.retry)

    await asyncio.get_running_loop().create_datagram_endpoint(server, sock=listener)
    print("ready", flush=True)
    await asyncio.Event().wait()


def main():
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--retry", action="store_true", help="ask each client for a proof of its address")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
