"""One ClientHello on many connections, its segments in another order on each (threats.md T14).

Speaks TCP by hand over AF_PACKET, over IPv4 or IPv6, from an address that this host does not own, so that its kernel
resets nothing; the server must have a neighbour entry for the address. Opens `--count` connections from port
`--port` on and prints `{"open": 100}`. Then, for each line on stdin:

`send`: sends, on each connection that wasn't answered, the hello in 2 to 12 segments in random order, the same ones each
time; with `--decoy` a byte first that isn't the hello's, and not the segment with the hello's first byte.
`rest`: sends that one.

After each it reads until the server is silent and prints `{"served": 99}`: on how many connections a handshake record
has come so far, which a ServerHello is in.
"""

import argparse
import ipaddress
import json
import random
import socket
import struct
import sys
import time

from kinds import checksum

SYN, RST, PSH, ACK = 0x02, 0x04, 0x08, 0x10
BASE = 0xFFFF_FE00
HANDSHAKE = 22
AT_ONCE = 8
SILENCE = 0.2
PACE = 0.01
PATIENCE = 20


class Wire:
    """Segments out and in."""

    def __init__(self, arguments):
        self.source = ipaddress.ip_address(arguments.source)
        self.server = ipaddress.ip_address(arguments.server)
        kind = 0x0800 if self.source.version == 4 else 0x86DD
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(kind))
        self.socket.bind((arguments.interface, kind))
        macs = b"".join(bytes.fromhex(mac.replace(":", "")) for mac in arguments.macs.split(","))
        self.ethernet = macs + struct.pack("!H", kind)

    def send(self, port, seq, ack, flags, payload=b""):
        """One segment."""
        header = struct.pack("!HHIIBBHHH", port, 443, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, 0x50, flags, 64_240, 0, 0)
        pseudo = self.source.packed + self.server.packed + struct.pack("!II", len(header) + len(payload), 6)
        segment = header[:16] + struct.pack("!H", checksum(pseudo + header + payload)) + header[18:] + payload
        if self.source.version == 4:
            ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 0, 0x4000, 64, 6, 0)
            ip += self.source.packed + self.server.packed
            ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
        else:
            ip = struct.pack("!IHBB", 6 << 28, len(segment), 6, 64) + self.source.packed + self.server.packed
        self.socket.send(self.ethernet + ip + segment)

    def receive(self, patience):
        """The next segment to us: port, seq, flags and payload; None if none comes."""
        until = time.monotonic() + patience
        while (left := until - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                packet = self.socket.recv(65536)[14:]
            except TimeoutError:
                return None
            if self.source.version == 4:
                start, end = (packet[0] & 15) * 4, struct.unpack("!H", packet[2:4])[0]
                protocol, addresses = packet[9], packet[12:20]
            else:
                start, end = 40, 40 + struct.unpack("!H", packet[4:6])[0]
                protocol, addresses = packet[6], packet[8:40]
            if protocol == 6 and addresses == self.server.packed + self.source.packed:
                port, seq = struct.unpack("!HI", packet[start + 2 : start + 8])
                return port, seq, packet[start + 13], packet[start + (packet[start + 12] >> 4) * 4 : end]
        return None


def segments(hello, choose, decoy):
    """The hello in pieces, in the order in which they go out; those that go at once, and the rest."""
    # In the middle always: a half fits a frame.
    cuts = sorted({0, len(hello) // 2, len(hello), *choose.sample(range(1, len(hello)), choose.randint(0, 10))})
    pieces = [(start, hello[start:end]) for start, end in zip(cuts, cuts[1:])]
    if not decoy:
        choose.shuffle(pieces)
        return pieces, []
    first, later = pieces[:1], pieces[1:]
    choose.shuffle(later)
    # A cipher suite's byte: another JA4 if it counted.
    place = 44 + hello[43] + 3
    decoy = [(place, bytes([hello[place] ^ 1]))]
    if place < cuts[1]:
        # Nothing of what goes at once contradicts it.
        decoy.append((place - 1, hello[place - 1 : place + 2]))
    return [*decoy, *later], first


class Clients:
    """The connections."""

    def __init__(self, wire, arguments):
        self.wire, self.served, self.acknowledges = wire, set(), {}
        with open(arguments.hello, "rb") as file:
            hello = file.read()
        self.end = BASE + len(hello)
        choose = random.Random(arguments.port)
        self.plans = {
            arguments.port + place: segments(hello, choose, arguments.decoy) for place in range(arguments.count)
        }

    def open(self):
        """Shakes hands on each."""
        until = time.monotonic() + PATIENCE
        while missing := [port for port in self.plans if port not in self.acknowledges]:
            if time.monotonic() > until:
                raise SystemExit(f"{len(missing)} SYNs are not answered")
            for port in missing[:AT_ONCE]:
                self.wire.send(port, BASE - 1, 0, SYN)
            self.read()
        for port, ack in self.acknowledges.items():
            self.wire.send(port, BASE, ack, ACK)

    def read(self, silence=SILENCE):
        """Takes what the server sends until it is silent."""
        while segment := self.wire.receive(silence):
            port, seq, flags, payload = segment
            if flags & (SYN | ACK) == SYN | ACK:
                self.acknowledges[port] = seq + 1
            elif port in self.plans and payload and payload[0] == HANDSHAKE:
                self.served.add(port)

    def send(self, which):
        """Sends those pieces of each plan, a few connections at once: the wire's queue is short."""
        left = [port for port in self.plans if port not in self.served]
        for place, port in enumerate(left):
            for start, payload in self.plans[port][which]:
                self.wire.send(port, BASE + start, self.acknowledges[port], ACK | PSH, payload)
            if place % AT_ONCE == AT_ONCE - 1:
                self.read(PACE)
        self.read()
        print(json.dumps({"served": len(self.served)}), flush=True)

    def reset(self):
        """Leaves nothing behind."""
        for port, ack in self.acknowledges.items():
            self.wire.send(port, self.end if port in self.served else BASE, ack, RST | ACK)


def main():
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interface")
    parser.add_argument("--macs", help="the server's and the sender's, comma between")
    parser.add_argument("--source", help="an address that this host does not own")
    parser.add_argument("--server")
    parser.add_argument("--hello", help="file with the bytes of a ClientHello")
    parser.add_argument("--count", type=int)
    parser.add_argument("--port", type=int)
    parser.add_argument("--decoy", action="store_true")
    arguments = parser.parse_args()
    clients = Clients(Wire(arguments), arguments)
    clients.open()
    print(json.dumps({"open": len(clients.acknowledges)}), flush=True)
    for line in sys.stdin:
        clients.send({"send": 0, "rest": 1}[line.strip()])
    clients.reset()


if __name__ == "__main__":
    main()
