"""A challenge listener: a TLS server whose every page is `challenge`, which hands its socket to the daemon.

Sends the request `challenge-listener` with the listening socket as SCM_RIGHTS to the control socket `--control`, and prints
the daemon's answer, one line of JSON, or `{"errno": "EACCES"}`. Then it serves until it is killed. `--send`: what goes along
instead of the socket that listens: `nothing`, `connected` (one end of a pair) or `bound` (bound, and not listening).

With a command after `--` it becomes that command, with the socket handed over as by systemd (sd_listen_fds(3)), and a child of
its own serves.
"""

import argparse
import errno
import json
import os
import socket
import ssl
import sys
import threading

PAGE = b"challenge\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(PAGE), PAGE)


def listener(address, port, listening=True):
    """A socket bound there; to `::`, for both families."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    bound.bind((address, port))
    if listening:
        bound.listen(128)
    return bound


def register(arguments, descriptor):
    """The daemon's answer, and the connection that keeps the place."""
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    control.settimeout(10)
    control.connect(arguments.control)
    request = {"verb": "challenge-listener", "ports": arguments.ports}
    line = json.dumps(request).encode() + b"\n"
    if descriptor is None:
        control.sendall(line)
    else:
        socket.send_fds(control, [line], [descriptor.fileno()])
    return control, control.makefile().readline()


def serve(connection, context):
    """One request, one page."""
    try:
        with context.wrap_socket(connection, server_side=True) as tls:
            if tls.recv(65536):
                tls.sendall(ANSWER)
    except OSError:
        pass  # a client that left, or a check of health


def serve_all(listening, arguments):
    """Whoever comes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(arguments.certificate, arguments.key)
    while True:
        connection, _ = listening.accept()
        threading.Thread(target=serve, args=(connection, context), daemon=True).start()


def activate(listening, command):
    """Becomes the command."""
    os.dup2(listening.fileno(), 3)
    os.set_inheritable(3, True)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="challenge")
    os.execvp(command[0], command)


def main():
    """Reads the command line, registers, serves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--control")
    parser.add_argument("--address", default="::")
    parser.add_argument("--port", type=int, default=18443)
    parser.add_argument("--ports", type=json.loads, default=[], help="the protected ports it is for")
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    parser.add_argument("--send", choices=["listener", "nothing", "connected", "bound"], default="listener")
    parser.add_argument("--uid", type=int, help="the user that speaks to the daemon")
    parser.add_argument("command", nargs="*")
    arguments = parser.parse_args()
    listening = listener(arguments.address, arguments.port)
    if arguments.command:
        if os.fork() != 0:
            activate(listening, arguments.command)
        serve_all(listening, arguments)
    pair = socket.socketpair()
    sent = {
        "listener": listening, "nothing": None, "connected": pair[0],
        "bound": listener("127.0.0.1", 0, listening=False),
    }  # fmt: skip
    if arguments.uid is not None:
        os.setgroups([])
        os.setgid(arguments.uid)
        os.setuid(arguments.uid)
    try:
        control, answer = register(arguments, sent[arguments.send])
    except OSError as error:
        answer, control = json.dumps({"errno": errno.errorcode[error.errno]}) + "\n", None
    sys.stdout.write(answer)
    sys.stdout.flush()
    if control is None or arguments.certificate is None:
        return
    serve_all(listening, arguments)


if __name__ == "__main__":
    main()
