"""Makes TLS connections and tells each one's fate as one JSON line on stdout.

In: the command line (`batch`: a number of connections over all kinds, so many at a time; `loop`: connections of one
kind, one after the other in each of N threads, until stdin is closed). Out, per connection:

    {"kind": "curl", "port": 40112, "status": 200, "error": null, "started": 12.5, "ended": 12.6}

`port` is the client's, null when the client couldn't tell; times are CLOCK_MONOTONIC seconds, the clock the test reads
too. Exit code 0 whenever every line was printed: a failed connection is an answer, not a failure of this program.
"""

import argparse
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from kinds import KINDS, Target

_print = threading.Lock()


def attempt(kind, target):
    """One connection, told on stdout."""
    started = time.monotonic()
    port = status = error = None
    try:
        port, status = KINDS[kind](target)
    except Exception as cause:  # whatever a client library raises is the outcome to tell
        error = f"{type(cause).__name__}: {cause}"
    line = {
        "kind": kind, "port": port or None, "status": status, "error": error,
        "started": started, "ended": time.monotonic(),
    }  # fmt: skip
    with _print:
        print(json.dumps(line), flush=True)


def batch(arguments, target):
    """`--count` connections in all, the kinds in turn."""
    kinds = arguments.kinds.split(",")
    with ThreadPoolExecutor(arguments.parallel) as pool:
        for done in [pool.submit(attempt, kinds[i % len(kinds)], target) for i in range(arguments.count)]:
            done.result()


def loop(arguments, target):
    """Connections until stdin is closed or `--limit` were made by each thread."""
    closed = threading.Event()

    def run():
        made = 0
        while not closed.is_set() and (arguments.limit == 0 or made < arguments.limit):
            attempt(arguments.kinds, target)
            made += 1
            closed.wait(arguments.pause)

    threads = [threading.Thread(target=run) for _ in range(arguments.parallel)]
    for thread in threads:
        thread.start()
    if arguments.limit == 0:
        sys.stdin.read()
        closed.set()
    for thread in threads:
        thread.join()


def main():
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["batch", "loop"])
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", type=int, default=443)
    parser.add_argument("--name", required=True, help="server name")
    parser.add_argument("--source", help="local address to connect from")
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"of {', '.join(KINDS)}; exactly one for loop")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds for one connection")
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--count", type=int, default=1, help="batch: connections in all")
    parser.add_argument("--pause", type=float, default=0.0, help="loop: seconds between two connections")
    parser.add_argument("--limit", type=int, default=0, help="loop: connections of each thread, 0 for no limit")
    arguments = parser.parse_args()
    target = Target(arguments.address, arguments.port, arguments.name, arguments.timeout, arguments.source)
    {"batch": batch, "loop": loop}[arguments.mode](arguments, target)


if __name__ == "__main__":
    main()
