"""A hello in segments of every order and with overlaps that contradict each other, to a real Linux server (threats.md T14).

`serve`: a TCP listener that reads each connection to its end and prints one line for it:

    {"port": 20001, "bytes": "160301..."}

`send`: speaks TCP by hand over AF_PACKET from an address that this host does not own, so that its kernel resets nothing:
first `--orders` orders of six segments, then `--overlaps` connections of random segments, some with other bytes at the
same place; prints how many connections the server ended, for each of which it waits `--patience` seconds. The server must
have a neighbour entry for the address.
"""

import argparse
import itertools
import json
import random
import selectors
import socket
import ssl
import struct
import time

from kinds import checksum, first_flight

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
AT_ONCE = 40


def hello(number):
    """A ClientHello; each number has another cipher suite first, so that its JA4 tells which bytes were read."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if number:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384")
    return first_flight(context, "overlap.example")


class Wire:
    """Segments out, SYN-ACKs and FINs in."""

    def __init__(self, arguments):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        self.socket.bind((arguments.interface, 0x0800))
        self.socket.settimeout(0.2)
        macs = b"".join(bytes.fromhex(mac.replace(":", "")) for mac in arguments.macs.split(","))
        self.ethernet = macs + b"\x08\x00"
        self.source, self.server = socket.inet_aton(arguments.source), socket.inet_aton(arguments.server)

    def send(self, port, seq, ack, flags, payload=b""):
        options = b"\x02\x04\x05\xb4" if flags & SYN else b""
        offset = (20 + len(options)) << 2
        header = struct.pack(
            "!HHIIBBHHH", port, 443, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, offset, flags, 64_240, 0, 0
        ) + options
        pseudo = self.source + self.server + struct.pack("!HH", 6, len(header) + len(payload))
        header = header[:16] + struct.pack("!H", checksum(pseudo + header + payload)) + header[18:]
        length = 20 + len(header) + len(payload)
        ip = struct.pack("!BBHHHBBH", 0x45, 0, length, 0, 0x4000, 64, 6, 0) + self.source + self.server
        ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
        self.socket.send(self.ethernet + ip + header + payload)

    def receive(self):
        """The next segment to us: port, seq, flags; None if none comes."""
        try:
            frame = self.socket.recv(65536)
        except TimeoutError:
            return None
        if len(frame) < 54 or frame[23] != 6 or frame[26:30] != self.server or frame[30:34] != self.source:
            return (0, 0, 0)
        tcp = frame[14 + (frame[14] & 15) * 4 :]
        port, seq = struct.unpack("!HI", tcp[2:8])
        return (port, seq, tcp[13])


def orders():
    """Each order of six segments."""
    whole = hello(0)
    edges = [len(whole) * place // 6 for place in range(7)]
    pieces = [(edges[place], whole[edges[place] : edges[place + 1]]) for place in range(6)]
    for order in itertools.permutations(pieces):
        yield list(order), len(whole)


def overlaps(count):
    """Random segments that cover all of one hello, some with another hello's bytes."""
    choose = random.Random(14)
    # As long as each other, so that what arrives is always a whole hello or a mixture.
    long, short = hello(0), hello(1)
    record = short + b"\0" * (len(long) - len(short))
    for _ in range(count):
        cuts = sorted({0, len(long), *(choose.randrange(1, len(long)) for _ in range(choose.randint(1, 6)))})
        pieces = [(start, long[start:end]) for start, end in itertools.pairwise(cuts)]
        for _ in range(choose.randint(1, 4)):
            start = choose.randrange(len(long))
            end = min(len(long), start + choose.randint(1, 200))
            source = record if choose.random() < 0.7 else long
            pieces.append((start, source[start:end]))
        choose.shuffle(pieces)
        yield pieces, len(long)


def send(arguments):
    """Makes the connections, so many at once."""
    wire = Wire(arguments)
    plans = itertools.chain(itertools.islice(orders(), arguments.orders), overlaps(arguments.overlaps))
    port, made = arguments.port, 0
    while plan := list(itertools.islice(plans, AT_ONCE)):
        ports = {port + place: pieces for place, pieces in enumerate(plan)}
        port += len(plan)
        for number in ports:
            wire.send(number, 1000, 0, SYN)
        acknowledged = {}
        deadline = time.monotonic() + 10
        while len(acknowledged) < len(ports) and time.monotonic() < deadline:
            answer = wire.receive()
            if answer and answer[0] in ports and answer[2] & (SYN | ACK) == SYN | ACK:
                acknowledged[answer[0]] = answer[1] + 1
        for number, ack in acknowledged.items():
            pieces, length = ports[number]
            wire.send(number, 1001, ack, ACK)
            for start, payload in pieces:
                wire.send(number, 1001 + start, ack, ACK | PSH, payload)
            wire.send(number, 1001 + length, ack, FIN | ACK)
        ended = set()
        deadline = time.monotonic() + arguments.patience
        while len(ended) < len(acknowledged) and time.monotonic() < deadline:
            answer = wire.receive()
            if answer and answer[0] in acknowledged and answer[2] & (FIN | RST):
                number = answer[0]
                if number not in ended and answer[2] & FIN:
                    wire.send(number, 1002 + ports[number][1], answer[1] + 1, ACK)
                ended.add(number)
        made += len(ended)
    print(json.dumps({"made": made}))


def serve(_):
    """Reads each connection to its end."""
    readers = selectors.DefaultSelector()
    with socket.create_server(("", 443), backlog=1024) as listener:
        readers.register(listener, selectors.EVENT_READ)
        print(json.dumps({"ready": True}), flush=True)
        read = {}
        while True:
            for key, _ in readers.select():
                if key.fileobj is listener:
                    connection, (_, port) = listener.accept()
                    readers.register(connection, selectors.EVENT_READ, port)
                    read[port] = b""
                    continue
                try:
                    received = key.fileobj.recv(65536)
                except ConnectionError:
                    received = b""
                read[key.data] += received
                if not received:
                    readers.unregister(key.fileobj)
                    key.fileobj.close()
                    print(json.dumps({"port": key.data, "bytes": read.pop(key.data).hex()}), flush=True)


def main():
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["serve", "send"])
    parser.add_argument("--interface")
    parser.add_argument("--macs", help="the server's and the sender's, comma between")
    parser.add_argument("--source", help="an address that this host does not own")
    parser.add_argument("--server")
    parser.add_argument("--orders", type=int, default=720)
    parser.add_argument("--overlaps", type=int, default=300)
    parser.add_argument("--port", type=int, default=20_000, help="the first connection's")
    parser.add_argument("--patience", type=float, default=10)
    arguments = parser.parse_args()
    {"serve": serve, "send": send}[arguments.mode](arguments)


if __name__ == "__main__":
    main()
