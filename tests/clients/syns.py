"""SYNs as systems send them that the lab has no machine of: writes them to a capture file, one from each port from
1001 on, and prints the name of each, in order. Run by the system's Python, which has scapy."""

import sys

from scapy.all import IP, TCP, Ether, wrpcap

MSS, NOP, SOK, TS = ("MSS", 1460), ("NOP", None), ("SAckOK", b""), ("Timestamp", (123456, 0))


def scale(shift):
    return ("WScale", shift)


# name: TTL, "don't fragment", identification, window, options
SYSTEMS = {
    "linux": (64, True, 4711, 64240, [MSS, SOK, TS, NOP, scale(7)]),
    "windows": (128, True, 4711, 64240, [MSS, NOP, scale(8), NOP, NOP, SOK]),
    "windows with timestamps": (128, True, 4711, 65535, [MSS, NOP, scale(8), SOK, TS]),
    "macos": (64, True, 0, 65535, [MSS, NOP, scale(6), NOP, NOP, TS, SOK]),
    "freebsd": (64, True, 0, 65535, [MSS, NOP, scale(6), SOK, TS]),
    "openbsd": (64, True, 4711, 16384, [MSS, NOP, NOP, SOK, NOP, scale(6), NOP, NOP, TS]),
    "zmap": (255, False, 54321, 65535, [MSS]),
    "masscan": (255, False, 4711, 1024, []),
    "nmap": (48, False, 4711, 1024, [MSS]),
    "linux that imitates": (128, True, 4711, 65535, [MSS, SOK, TS, NOP, scale(8)]),
    "nobody": (64, True, 4711, 8192, [SOK, MSS, ("EOL", None)]),
}


def syn(port, ttl, dont_fragment, identification, window, options):
    ip = IP(src="10.77.0.2", dst="10.77.0.1", ttl=ttl, flags="DF" if dont_fragment else 0, id=identification)
    return Ether() / ip / TCP(sport=port, dport=443, flags="S", seq=7, window=window, options=options)


def main():
    wrpcap(sys.argv[1], [syn(port, *system) for port, system in enumerate(SYSTEMS.values(), 1001)])
    print("\n".join(SYSTEMS))


main()
