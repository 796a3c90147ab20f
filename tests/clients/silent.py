"""Clients that send a whole ClientHello and nothing more: opens `--count` connections, prints their ports as one line
(`[40112, 40113]`), and keeps them open until stdin is closed. What the server answers isn't read."""

import argparse
import json
import socket
import ssl
import sys

from kinds import first_flight


def main():
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", required=True)
    parser.add_argument("--count", type=int, required=True)
    arguments = parser.parse_args()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    connections = []
    for _ in range(arguments.count):
        connection = socket.create_connection((arguments.server, 443), 10)
        connection.sendall(first_flight(context, "silent.example"))
        connections.append(connection)
    print(json.dumps([connection.getsockname()[1] for connection in connections]), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
