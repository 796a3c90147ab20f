"""Real browsers, driven over their own protocols: Chromium by DevTools messages on a pipe, Firefox by Marionette on a port.
Each has a profile of its own, which is removed with it. A click is a click: with a pointer, where the link is.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time

# Seconds for a start, or a page: the lab has many browsers at a time.
PATIENCE = 120
# Of a link that is in view: its middle.
_PLACE = """(() => {
  const links = [...document.querySelectorAll("a.more")];
  const link = links[%d %% Math.max(links.length, 1)];
  if (!link) return null;
  link.scrollIntoView({ block: "center" });
  const place = link.getBoundingClientRect();
  return { x: place.x + place.width / 2, y: place.y + place.height / 2 };
})()"""


class _Browser:
    """What both have: a home, a process, and the end of both."""

    def __init__(self):
        self.home = tempfile.mkdtemp(prefix="visit-")
        self.processes = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
        shutil.rmtree(self.home, ignore_errors=True)

    def start(self, command, **options):
        """As the leader of a group, which ends with it."""
        environment = {**os.environ, "HOME": self.home, "XDG_RUNTIME_DIR": self.home, **options.pop("env", {})}
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, start_new_session=True, env=environment, **{**streams, **options})
        self.processes.append(process)
        return process


class Chromium(_Browser):
    """With a window on a display of its own, or headless."""

    def __init__(self, name, headless, agent, flags):
        super().__init__()
        self.numbers = 0
        self.read_from = b""
        self.events = []
        environment = {}
        if not headless:
            environment["DISPLAY"] = self._display()
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        command = [
            "chromium", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-breakpad",
            "--disable-crash-reporter", "--ignore-certificate-errors", f"--user-data-dir={self.home}/profile",
            f"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {name}",
            "--no-proxy-server", "--window-size=1280,900", "--remote-debugging-pipe", *flags, "about:blank",
        ]  # fmt: skip
        if headless:
            command.insert(1, "--headless=new")
        if agent:
            command.insert(1, f"--user-agent={agent}")

        def pipes():
            # The two may be each other's numbers: first out of the way.
            to, back = os.dup(theirs_in), os.dup(theirs_out)
            os.dup2(to, 3)
            os.dup2(back, 4)

        self.start(command, preexec_fn=pipes, close_fds=False, env=environment)
        os.close(theirs_in)
        os.close(theirs_out)
        self.inward, self.outward = ours_in, ours_out
        os.set_blocking(self.inward, True)
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        self.session = None
        self.session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        self.call("Page.enable")

    def _display(self):
        told, tell = os.pipe()
        command = ["Xvfb", "-displayfd", str(tell), "-screen", "0", "1280x1024x24", "-nolisten", "tcp"]
        self.start(command, pass_fds=[tell])
        os.close(tell)
        with os.fdopen(told) as number:
            return f":{number.readline().strip()}"

    def call(self, method, parameters=None):
        """Its answer; events that come before it are kept."""
        self.numbers += 1
        message = {"id": self.numbers, "method": method, "params": parameters or {}}
        if getattr(self, "session", None):
            message["sessionId"] = self.session
        os.write(self.outward, json.dumps(message).encode() + b"\0")
        number = self.numbers
        while True:
            answer = self._next()
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer.get("method"))

    def _next(self):
        until = time.monotonic() + PATIENCE
        while b"\0" not in self.read_from:
            if time.monotonic() > until:
                raise TimeoutError("Chromium says nothing")
            more = os.read(self.inward, 65536)
            if not more:
                raise EOFError("Chromium is gone")
            self.read_from += more
        message, self.read_from = self.read_from.split(b"\0", 1)
        return json.loads(message)

    def _loaded(self):
        until = time.monotonic() + PATIENCE
        while "Page.loadEventFired" not in self.events:
            if time.monotonic() > until:
                raise TimeoutError("no page")
            self.events.append(self._next().get("method"))

    def open(self, url):
        """By its address."""
        self.events.clear()
        answer = self.call("Page.navigate", {"url": url})
        if answer.get("errorText"):
            raise OSError(answer["errorText"])
        self._loaded()

    def click(self, number):
        """On one of the page's links."""
        self.events.clear()
        self._press(number, "left")
        self._loaded()

    def tab(self, number):
        """Opens one of the page's links in a tab of its own, behind this one."""
        self._press(number, "middle")

    def _press(self, number, button):
        found = self.call("Runtime.evaluate", {"expression": _PLACE % number, "returnByValue": True})
        place = found["result"].get("value")
        if place is None:
            raise OSError("no page with links")
        at = {**place, "button": button, "clickCount": 1}
        self.call("Input.dispatchMouseEvent", {**at, "type": "mouseMoved", "button": "none", "clickCount": 0})
        self.call("Input.dispatchMouseEvent", {**at, "type": "mousePressed"})
        self.call("Input.dispatchMouseEvent", {**at, "type": "mouseReleased"})

    def scroll(self, pixels):
        """Down, with a wheel."""
        at = {"type": "mouseWheel", "x": 400, "y": 400, "deltaX": 0, "deltaY": pixels}
        self.call("Input.dispatchMouseEvent", at)

    def reload(self):
        """The page."""
        self.events.clear()
        self.call("Page.reload")
        self._loaded()

    def back(self):
        """To the page before."""
        self.call("Runtime.evaluate", {"expression": "history.back()"})


class Firefox(_Browser):
    """Without a window."""

    def __init__(self, preferences):
        super().__init__()
        profile = f"{self.home}/profile"
        os.mkdir(profile)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        wanted = {
            "marionette.port": port,
            "network.proxy.type": 0,
            "app.update.auto": False,
            "app.normandy.enabled": False,
            "browser.shell.checkDefaultBrowser": False,
            "datareporting.policy.dataSubmissionEnabled": False,
            "toolkit.telemetry.enabled": False,
            "network.captive-portal-service.enabled": False,
            "network.connectivity-service.enabled": False,
            "extensions.update.enabled": False,
            "services.settings.server": "data:,",
            **preferences,
        }
        with open(f"{profile}/user.js", "w", encoding="utf-8") as file:
            for key, value in wanted.items():
                file.write(f'user_pref("{key}", {json.dumps(value)});\n')
        self.start(["firefox-esr", "--headless", "--marionette", "--no-remote", "--profile", profile, "about:blank"])
        self.connection = self._connect(port)
        self.stream = self.connection.makefile("rb")
        self.numbers = 0
        self._receive()
        self.call("WebDriver:NewSession", {"acceptInsecureCerts": True})

    @staticmethod
    def _connect(port):
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return socket.create_connection(("127.0.0.1", port), PATIENCE)
            except ConnectionRefusedError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)

    def _receive(self):
        length = b""
        while not length.endswith(b":"):
            byte = self.stream.read(1)
            if not byte:
                raise EOFError("Firefox is gone")
            length += byte
        return json.loads(self.stream.read(int(length[:-1])))

    def call(self, command, parameters=None):
        """Its answer."""
        self.numbers += 1
        message = json.dumps([0, self.numbers, command, parameters or {}])
        self.connection.sendall(f"{len(message.encode())}:{message}".encode())
        _, _, error, result = self._receive()
        if error:
            raise OSError(f"{command}: {error['error']}: {error['message']}")
        return result

    def open(self, url):
        """By its address."""
        self.call("WebDriver:Navigate", {"url": url})

    def click(self, number):
        """On one of the page's links."""
        found = self.call("WebDriver:FindElements", {"using": "css selector", "value": "a.more"})
        if not found:
            raise OSError("no page with links")
        element = found[number % len(found)]
        self.call("WebDriver:ElementClick", {"id": next(iter(element.values()))})

    def back(self):
        """To the page before."""
        self.call("WebDriver:Back")
