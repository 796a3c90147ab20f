"""Connections that stay open: opens them over TLS, then asks for a page on each in turn, round after round, until standard
input ends. Prints `open` when all are, and at the end one line of JSON: the connections, the pages, and how many of the
connections ended before."""

import argparse
import json
import select
import socket
import ssl
import sys

REQUEST = b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n"


def connect(context, address, name):
    plain = socket.create_connection((address, 443), timeout=20)
    return context.wrap_socket(plain, server_hostname=name)


def ask(connection, name):
    """Whether the page came; on an error the connection has ended."""
    try:
        connection.sendall(REQUEST % name.encode())
        answer = b""
        while b"hello\n" not in answer:
            piece = connection.recv(4096)
            if not piece:
                return False
            answer += piece
        return True
    except OSError:
        return False


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--count", type=int, required=True)
    arguments = parser.parse_args()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connections = [connect(context, arguments.address, arguments.name) for _ in range(arguments.count)]
    print("open", flush=True)
    pages = ended = 0
    while True:
        for connection in list(connections):
            if ask(connection, arguments.name):
                pages += 1
            else:
                connections.remove(connection)
                ended += 1
        if select.select([sys.stdin], [], [], 0)[0]:
            break
    print(json.dumps({"open": len(connections), "pages": pages, "ended": ended}), flush=True)


main()
