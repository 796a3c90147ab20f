"""Pushes one VLAN tag of ID 0 (a priority tag, IEEE 802.1Q) onto every frame that leaves an interface, until stdin is closed.

A program of five instructions at tcx does it; the interface must not take tags out of the frame (`ethtool -K IF
tx-vlan-hw-insert off`). Prints `ready` when it is attached.
"""

import ctypes
import os
import socket
import struct
import sys

# linux/bpf.h
_BPF_PROG_LOAD, _BPF_LINK_CREATE = 5, 28
_SCHED_CLS, _TCX_EGRESS = 3, 47
_SKB_VLAN_PUSH = 18
_SYSCALL = {"x86_64": 321, "aarch64": 280}[os.uname().machine]


def _bpf(command, attributes):
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = libc.syscall(_SYSCALL, command, buffer, len(attributes))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _instruction(code, registers=0, immediate=0):
    return struct.pack("<BBhi", code, registers, 0, immediate)


def main():
    """Attaches it to the interface named first."""
    program = b"".join(
        [
            _instruction(0xB7, 2, socket.htons(0x8100)),  # r2 = the tag's EtherType
            _instruction(0xB7, 3, 0),  # r3 = its VLAN ID and priority
            _instruction(0x85, 0, _SKB_VLAN_PUSH),  # r1 is the packet
            _instruction(0xB7, 0, -1),  # TCX_NEXT
            _instruction(0x95),
        ]
    )
    code, licence = ctypes.create_string_buffer(program, len(program)), ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack("<IIQQ", _SCHED_CLS, len(program) // 8, ctypes.addressof(code), ctypes.addressof(licence))
    loaded = _bpf(_BPF_PROG_LOAD, attributes.ljust(72, b"\0"))
    link = _bpf(_BPF_LINK_CREATE, struct.pack("<IIII", loaded, socket.if_nametoindex(sys.argv[1]), _TCX_EGRESS, 0).ljust(48, b"\0"))
    print("ready", flush=True)
    sys.stdin.read()
    os.close(link)


if __name__ == "__main__":
    main()
