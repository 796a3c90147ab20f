"""Plain TCP connections as fast as they can be made, from two processes on two CPUs.

connects.py SOURCE DESTINATION PORT SECONDS

A connection that isn't there within 2 ms is given up. Prints the connections that were made and the seconds it took.
"""

import multiprocessing
import os
import select
import socket
import sys
import time

PATIENCE = 0.002


def connect(source, destination, port, seconds, cpu):
    os.sched_setaffinity(0, {cpu % os.cpu_count()})
    family = socket.AF_INET6 if ":" in destination else socket.AF_INET
    made, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        with socket.socket(family, socket.SOCK_STREAM) as client:
            client.setblocking(False)
            client.bind((source, 0))
            client.connect_ex((destination, port))
            _, writable, _ = select.select([], [client], [], PATIENCE)
            if writable and client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                made += 1
                # No TIME_WAIT: its port may come again at once.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    return made


def main():
    source, destination, port, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    began = time.monotonic()
    with multiprocessing.Pool(2) as pool:
        made = pool.starmap(connect, [(source, destination, port, seconds, cpu) for cpu in range(2)])
    print(sum(made), time.monotonic() - began, flush=True)


if __name__ == "__main__":
    main()
