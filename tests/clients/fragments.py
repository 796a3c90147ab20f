"""UDP datagrams in IP fragments (threats.md T16).

`serve`: binds UDP ports 443 and 444, and prints one line for each datagram: `{"port": 443, "from": "10.77.0.2", "size": 1400}`.

`send`: sends one datagram from each of `--sources` to each port, in fragments of 8, 512 and the remaining bytes: in order,
and with the last one first; then a whole one of 4 bytes from each. IPv4 and IPv6 sources go to `--servers` of their family.
"""

import argparse
import ipaddress
import json
import selectors
import socket
import struct

from kinds import checksum

PORTS = (443, 444)
SIZE = 1400


def datagram(source, server, port, payload):
    """A UDP datagram with its checksum."""
    length = 8 + len(payload)
    header = struct.pack("!HHHH", 40_000, port, length, 0)
    pseudo = source.packed + server.packed + struct.pack("!II", length, 17)
    return header[:6] + struct.pack("!H", checksum(pseudo + header + payload) or 0xFFFF) + payload


def packet(source, server, number, offset, more, part):
    """One IP packet with its EtherType: a fragment, unless it is all there is."""
    if source.version == 4:
        place = offset // 8 | more << 13
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(part), number, place, 64, 17, 0) + source.packed + server.packed
        return b"\x08\x00" + ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:] + part
    whole = offset == 0 and not more
    extension = b"" if whole else struct.pack("!BBHI", 17, 0, offset | more, number)
    length = len(extension) + len(part)
    ip = struct.pack("!IHBB", 6 << 28, length, 17 if whole else 44, 64) + source.packed + server.packed
    return b"\x86\xdd" + ip + extension + part


def send(arguments):
    """Sends them all, the whole ones last."""
    macs = b"".join(bytes.fromhex(mac.replace(":", "")) for mac in arguments.macs.split(","))
    sources = [ipaddress.ip_address(source) for source in arguments.sources.split(",")]
    servers = {server.version: server for server in map(ipaddress.ip_address, arguments.servers.split(","))}
    number = 0
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind((arguments.interface, 0))
        for source in sources:
            server = servers[source.version]
            for port in PORTS:
                for order in ((0, 1, 2), (2, 1, 0)):
                    number += 1
                    bytes_ = datagram(source, server, port, b"f" * SIZE)
                    cuts = ((0, 8), (8, 520), (520, len(bytes_)))
                    for place in order:
                        start, end = cuts[place]
                        frame = packet(source, server, number, start, place < 2, bytes_[start:end])
                        wire.send(macs + frame)
        for source in sources:
            server = servers[source.version]
            for port in PORTS:
                wire.send(macs + packet(source, server, 0, 0, False, datagram(source, server, port, b"done")))


def serve(_):
    """Tells each datagram."""
    readers = selectors.DefaultSelector()
    for port in PORTS:
        for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            reader = socket.socket(family, socket.SOCK_DGRAM)
            if family == socket.AF_INET6:
                reader.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            reader.bind((address, port))
            readers.register(reader, selectors.EVENT_READ, port)
    print(json.dumps({"ready": True}), flush=True)
    while True:
        for key, _ in readers.select():
            received, sender = key.fileobj.recvfrom(65536)
            print(json.dumps({"port": key.data, "from": sender[0], "size": len(received)}), flush=True)


def main():
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["serve", "send"])
    parser.add_argument("--interface")
    parser.add_argument("--macs", help="the server's and the sender's, comma between")
    parser.add_argument("--sources", help="comma between")
    parser.add_argument("--servers", help="comma between")
    arguments = parser.parse_args()
    {"serve": serve, "send": send}[arguments.mode](arguments)


if __name__ == "__main__":
    main()
