"""A web server behind others, for what takes long. `/slow/SECONDS/…` is a page that comes byte by byte, a WebSocket to any
path (RFC 6455) an echo until its client ends it. In: the port, of 127.0.0.1, on the command line. Prints `ready`."""

import base64
import hashlib
import socketserver
import sys
import time

# RFC 6455 section 1.3
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_PER_SECOND = 5


class Origin(socketserver.StreamRequestHandler):
    """One connection, with one request."""

    def handle(self):
        path = self.rfile.readline().split(b" ")[1].decode()
        headers = {}
        while b":" in (line := self.rfile.readline()):
            name, value = line.split(b":", 1)
            headers[name.lower()] = value.strip()
        if b"sec-websocket-key" in headers:
            self.echo(headers[b"sec-websocket-key"])
        else:
            self.trickle(int(path.split("/")[2]) * _PER_SECOND)

    def echo(self, key):
        """Accepts, and sends back what comes."""
        accept = base64.b64encode(hashlib.sha1(key + _MAGIC).digest())
        head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        self.wfile.write(head + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
        while data := self.connection.recv(4096):
            self.wfile.write(data)

    def trickle(self, count):
        """One byte, and a pause."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % count)
        for _ in range(count):
            self.wfile.write(b".")
            time.sleep(1 / _PER_SECOND)


class Server(socketserver.ThreadingTCPServer):
    """A thread for each connection."""

    allow_reuse_address = True
    daemon_threads = True


with Server(("127.0.0.1", int(sys.argv[1])), Origin) as server:
    print("ready", flush=True)
    server.serve_forever()
