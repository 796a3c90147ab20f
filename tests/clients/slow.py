"""Slow peers: opens connections to an address or a unix socket and sends a byte on each now and then; one that is closed is
opened again. Prints `open` when all were, and goes on until standard input ends."""

import argparse
import resource
import select
import socket
import sys


def connect(target):
    if "/" in target:
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(target)
    else:
        host, port = target.rsplit(":", 1)
        peer = socket.create_connection((host, int(port)), timeout=20)
    peer.setblocking(False)
    return peer


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", required=True, help="HOST:PORT, or the path of a unix socket")
    parser.add_argument("--count", type=int, required=True)
    arguments = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    peers = [connect(arguments.target) for _ in range(arguments.count)]
    print("open", flush=True)
    while not select.select([sys.stdin], [], [], 0.05)[0]:
        for place, peer in enumerate(peers):
            try:
                peer.send(b"G")
            except OSError:
                peer.close()
                peers[place] = connect(arguments.target)


main()
