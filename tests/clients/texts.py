"""Browsers in text, each in a terminal of its own, by its keys."""

import os
import pty
import select
import shutil
import signal
import subprocess
import tempfile
import termios
import time

# What is typed: to the next link, into it, and back.
_KEYS = {"lynx": (b"\x1b[B", b"\x1b[C", b"\x1b[D"), "w3m": (b"\t", b"\r", b"B")}
# Seconds without a byte after which a page is there.
_QUIET = 0.5


class Text:
    """lynx or w3m."""

    def __init__(self, program):
        self.program = program
        self.home = tempfile.mkdtemp(prefix="visit-")
        self.process = self.terminal = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait()
            os.close(self.terminal)
        shutil.rmtree(self.home, ignore_errors=True)

    def open(self, url):
        """At its start."""
        self.terminal, theirs = pty.openpty()
        termios.tcsetwinsize(self.terminal, (50, 100))
        environment = {**os.environ, "HOME": self.home, "TERM": "vt100", "LANG": "C.UTF-8"}
        self.process = subprocess.Popen(
            [self.program, url], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, env=environment
        )
        os.close(theirs)
        self._shown()

    def click(self, number):
        """On one of the page's links."""
        onward, into, _ = _KEYS[self.program]
        # lynx begins at the first link.
        for _ in range(number + (self.program == "w3m")):
            self._type(onward)
        self._type(into)

    def back(self):
        """To the page before."""
        self._type(_KEYS[self.program][2])

    def _type(self, key):
        os.write(self.terminal, key)
        self._shown()

    def _shown(self):
        """Waits until nothing more is drawn."""
        until = time.monotonic() + 30
        while time.monotonic() < until and select.select([self.terminal], [], [], _QUIET)[0]:
            try:
                os.read(self.terminal, 65536)
            except OSError as cause:
                raise EOFError(f"{self.program} is gone") from cause
