"""Connections of blocked clients, and a server that says when its own are gone.

`hellos`: opens `--count` connections, sends the ClientHello in the file `--hello` on each, the n-th cut in two at byte
`n * 37`, and prints `[[port, at], ...]`: the clients' ports, and when the last byte was handed to the kernel
(CLOCK_MONOTONIC seconds). With `--one-by-one`, each connection is opened when the one before has sent. When stdin is
closed it prints a list of those that were told anything: got bytes, an end (0 bytes), or an error.

`kept`: opens `--count` TLS connections, asks on each and reads the answer, and prints their ports; at a line on stdin it
asks once more on each, prints `asked`, and ends like `hellos`.

`serve`: a listener that reads what comes and prints `{"port": 40112, "at": 12.5}` when a connection is reset.
"""

import argparse
import fcntl
import json
import os
import selectors
import socket
import sys
import termios
import time
from array import array

from kinds import Target, _without_alpn

CUTS = 37


def connect(arguments):
    """A connection that sends each piece as it gets it."""
    source = (arguments.source, 0) if arguments.source else None
    connection = socket.create_connection((arguments.server, 443), 10, source)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def arrived(connection):
    """Waits until the server has what was sent, so that the wire's short queue holds little and nothing is lost there."""
    unacknowledged = array("i", [1])
    until = time.monotonic() + 10
    while unacknowledged[0]:
        if time.monotonic() > until:
            raise SystemExit("the server acknowledges nothing")
        fcntl.ioctl(connection, termios.TIOCOUTQ, unacknowledged)


def hellos(arguments):
    """The hello of a file, cut at another place on each connection."""
    with open(arguments.hello, "rb") as file:
        hello = file.read()
    count = arguments.count
    connections = [] if arguments.one_by_one else [connect(arguments) for _ in range(count)]
    sent = []
    for place in range(count):
        if arguments.one_by_one:
            connections.append(connect(arguments))
        connection, cut = connections[place], place * CUTS % len(hello)
        if cut:
            connection.sendall(hello[:cut])
            arrived(connection)
        at = time.monotonic()
        connection.sendall(hello[cut:])
        sent.append((connection.getsockname()[1], at))
    print(json.dumps(sent), flush=True)
    return connections


def kept(arguments):
    """Connections with an answered request, and then one more."""
    request = Target("", 443, arguments.name, 10.0, None).request.replace(b"Connection: close", b"Connection: keep-alive")
    streams = []
    for _ in range(arguments.count):
        stream = _without_alpn().wrap_socket(connect(arguments), server_hostname=arguments.name)
        stream.sendall(request)
        answer = b""
        while not answer.endswith(b"hello\n"):
            more = stream.recv(65536)
            if not more:
                raise SystemExit(f"closed after `{answer}`")
            answer += more
        streams.append(stream)
    print(json.dumps([stream.getsockname()[1] for stream in streams]), flush=True)
    sys.stdin.readline()
    for stream in streams:
        stream.sendall(request)
    print("asked", flush=True)
    return streams


def told(connection):
    """What the client knows beside that nobody answers."""
    plain = socket.socket(fileno=connection.detach())
    plain.setblocking(False)
    try:
        what = f"{len(plain.recv(65536))} bytes"
    except BlockingIOError:
        return None
    except OSError as error:
        what = str(error)
    return f"port {plain.getsockname()[1]}: {what}"


def serve():
    """Reads every connection until it is reset. Ahead of other work, or the time would be that of a busy machine."""
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    waiting = selectors.DefaultSelector()
    listener = socket.create_server(("", 443), backlog=4096)
    waiting.register(listener, selectors.EVENT_READ, None)
    print("ready", flush=True)
    while True:
        for key, _ in waiting.select():
            if key.data is None:
                connection, (_, port) = listener.accept()
                waiting.register(connection, selectors.EVENT_READ, port)
                continue
            try:
                if key.fileobj.recv(65536):
                    continue
            except ConnectionResetError:
                print(json.dumps({"port": key.data, "at": time.monotonic()}), flush=True)
            waiting.unregister(key.fileobj)
            key.fileobj.close()


def main():
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["hellos", "kept", "serve"])
    parser.add_argument("--server")
    parser.add_argument("--source", help="local address to connect from")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--hello", help="hellos: file with the bytes of a ClientHello")
    parser.add_argument("--one-by-one", action="store_true", help="hellos: one connection after the other")
    parser.add_argument("--name", help="kept: server name")
    arguments = parser.parse_args()
    if arguments.mode == "serve":
        serve()
    connections = {"hellos": hellos, "kept": kept}[arguments.mode](arguments)
    sys.stdin.read()
    print(json.dumps([what for what in map(told, connections) if what]), flush=True)


if __name__ == "__main__":
    main()
