"""Sends forged segments: from addresses that nobody has, each a whole ClientHello, half of them after a SYN.

In: the interface, the server, how many from how many sources. Out: frames on the wire, and on stdout how many hellos
and SYNs were sent and in how many seconds. Answers aren't read: a forger never sees them. Memory: one frame.

The hello is that of `kinds.python`, so that a verdict on its JA4 would hit real clients too.
"""

import argparse
import errno
import ipaddress
import json
import random
import socket
import struct
import ssl
import time

from kinds import checksum, first_flight

SYN, PSH_ACK = 0x02, 0x18


def hello(name):
    """The first flight of Python's ssl module."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return first_flight(context, name)


class Forge:
    """Builds frames by adding what changes to checksums of what doesn't."""

    def __init__(self, macs, server, port, payload):
        self.ethernet = b"".join(bytes.fromhex(mac.replace(":", "")) for mac in macs) + b"\x08\x00"
        self.server = socket.inet_aton(server)
        self.port = port
        self.payload = payload
        self.sum = self._sum(payload + b"\0" * (len(payload) % 2))

    @staticmethod
    def _sum(data):
        return sum(struct.unpack(f"!{len(data) // 2}H", data))

    def frame(self, source, sport, seq, ack, flags):
        """One frame; a SYN has no payload."""
        payload = b"" if flags == SYN else self.payload
        options = b"\x02\x04\x05\xb4" if flags == SYN else b""
        length = 20 + len(options) + len(payload)
        offset = (20 + len(options)) << 2
        header = struct.pack("!HHIIBBHHH", sport, self.port, seq, ack, offset, flags, 64_240, 0, 0) + options
        total = self._sum(source + self.server + struct.pack("!HH", 6, length) + header)
        total += self.sum if payload else 0
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        header = header[:16] + struct.pack("!H", ~total & 0xFFFF) + header[18:]
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, 0x4000, 64, 6, 0) + source + self.server
        ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
        return self.ethernet + ip + header + payload


def main():
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interface", required=True)
    parser.add_argument("--macs", required=True, help="the server's and the sender's, comma between")
    parser.add_argument("--server", required=True)
    parser.add_argument("--port", type=int, default=443)
    parser.add_argument("--name", required=True, help="server name")
    parser.add_argument("--first", default="198.18.0.1", help="the first source")
    parser.add_argument("--sources", type=int, default=10_000)
    parser.add_argument("--count", type=int, default=100_000, help="hellos")
    parser.add_argument("--seconds", type=float, default=0, help="send for so long, whatever the count")
    parser.add_argument("--no-syns", action="store_true", help="no SYN before any hello")
    arguments = parser.parse_args()
    macs = arguments.macs.split(",")
    forge = Forge(macs, arguments.server, arguments.port, hello(arguments.name))
    first = int(ipaddress.IPv4Address(arguments.first))
    number = random.Random(7).getrandbits
    started = time.monotonic()
    hellos = syns = 0
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        wire.bind((arguments.interface, 0))

        def send(frame):
            while True:
                try:
                    return wire.send(frame)
                except OSError as error:  # the wire's queue is full
                    if error.errno != errno.ENOBUFS:
                        raise

        frames = []
        while hellos < arguments.count or time.monotonic() - started < arguments.seconds:
            if arguments.seconds and len(frames) >= 20_000:
                # Built once, sent over and over: building costs more than sending.
                for frame in frames:
                    send(frame)
                hellos += len(frames)
                continue
            source = struct.pack("!I", first + hellos % arguments.sources)
            sport = 1024 + hellos // arguments.sources % 60_000
            seq = number(32)
            if hellos % 2 and not arguments.no_syns:
                send(forge.frame(source, sport, seq, 0, SYN))
                syns += 1
            frame = forge.frame(source, sport, (seq + 1) & 0xFFFFFFFF, number(32), PSH_ACK)
            if arguments.seconds:
                frames.append(frame)
            send(frame)
            hellos += 1
    print(json.dumps({"hellos": hellos, "syns": syns, "seconds": time.monotonic() - started}))


if __name__ == "__main__":
    main()
