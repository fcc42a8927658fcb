# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium, driven through the pipe of its DevTools protocol: no port, so it can live in any namespace.

    with Browser(lab.node) as browser:
        page = browser.page("http://127.0.0.1:7642/ui/", width=1600, height=1000)
        page.wait("document.querySelectorAll('.node').length > 2")
        page.screenshot("/tmp/x.png")
        assert page.complaints == []
"""
import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

from netns import die_with_parent

PROGRAMS = ("chromium-headless-shell", "chromium")
SWITCHES = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--mute-audio",
            "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--disable-sync",
            "--disable-dev-shm-usage", "--force-color-profile=srgb", "--remote-debugging-pipe")


def program():
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


class Browser:
    def __init__(self, node=None):
        self.directory = tempfile.mkdtemp(prefix=f"pt{os.getpid()}-browser-", dir="/tmp")  # sweep() takes what a killed run left
        self.identifier, self.unread, self.pages = 0, b"", {}
        command = [program(), *SWITCHES, f"--user-data-dir={self.directory}", "about:blank"]
        commands_read, self.commands = os.pipe()
        self.answers, answers_write = os.pipe()
        # The browser reads commands from descriptor 3 and answers on 4.
        ends = [os.open("/dev/null", os.O_RDWR) for _ in range(2)]
        high = [os.dup2(commands_read, 60), os.dup2(answers_write, 61)]
        shell = ["bash", "-c", 'exec 3<&60 4>&61 60<&- 61>&-; exec "$@"', "bash", *command]
        self.process = subprocess.Popen(node.command(*shell) if node else shell, pass_fds=high, stdin=ends[0], stdout=ends[1],
                                        stderr=ends[1], env={**os.environ, "HOME": self.directory},
                                        preexec_fn=die_with_parent)
        for fd in (*ends, *high, commands_read, answers_write):
            os.close(fd)

    def call(self, method, session=None, timeout=20, **parameters):
        self.identifier += 1
        message = {"id": self.identifier, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        wanted, end = self.identifier, time.monotonic() + timeout
        while True:
            answer = self._next(end - time.monotonic(), method)
            if answer.get("id") == wanted:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._event(answer)

    def _next(self, timeout, what):
        while b"\0" not in self.unread:
            if not select.select([self.answers], [], [], max(timeout, 0))[0]:
                raise AssertionError(f"the browser does not answer {what}")
            more = os.read(self.answers, 1 << 20)
            assert more, f"the browser has ended with {self.process.wait()}"
            self.unread += more
        message, self.unread = self.unread.split(b"\0", 1)
        return json.loads(message)

    def _event(self, message):
        page = self.pages.get(message.get("sessionId"))
        if page:
            page.event(message["method"], message["params"])

    def page(self, url, *size, **options):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self.pages[session] = Page(self, session, target)
        page.open(url, *size, **options)
        return page

    def close(self):
        with contextlib.suppress(AssertionError, OSError):
            self.call("Browser.close", timeout=5)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.commands)
        os.close(self.answers)
        end = time.monotonic() + 2  # its children go behind it
        while os.path.isdir(self.directory) and time.monotonic() < end:
            shutil.rmtree(self.directory, ignore_errors=True)
            time.sleep(0.02)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


class Page:
    def __init__(self, browser, session, target):
        self.browser, self.session, self.target = browser, session, target
        self.complaints = []  # what the console shows as errors: exceptions, CSP violations, failed requests

    def call(self, method, **parameters):
        return self.browser.call(method, self.session, **parameters)

    def event(self, method, parameters):
        if method == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
            self.complaints.append(" ".join(str(one.get("value", one.get("description"))) for one in parameters["args"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f'{parameters["entry"]["source"]}: {parameters["entry"]["text"]}')

    def open(self, url, width=1280, height=900, dark=False, still=False):
        for domain in ("Runtime", "Log", "Page", "Network"):
            self.call(f"{domain}.enable")
        self.size(width, height)
        self.media(dark, still)
        self.call("Page.navigate", url=url)
        self.wait("location.href !== 'about:blank' && document.readyState === 'complete'")

    def size(self, width, height):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def media(self, dark=False, still=False):
        """dark: the reader prefers dark; still: and less motion."""
        self.call("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"}])

    def value(self, expression):
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in done:
            details = done["exceptionDetails"]
            raise AssertionError(f'{expression}: {details.get("exception", {}).get("description", details["text"])}')
        return done["result"].get("value")

    def wait(self, expression, timeout=10):
        """Until the expression is true; what it was, and how long that took."""
        begun = time.monotonic()
        while True:
            value = self.value(expression)
            if value:
                return value
            assert time.monotonic() - begun < timeout, f"not within {timeout} s: {expression}\n{self.complaints}"
            time.sleep(0.03)

    def key(self, key, code=None, text=""):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=code or key, text=text if kind == "keyDown" else "",
                      windowsVirtualKeyCode={"Tab": 9, "Enter": 13, "Escape": 27, "ArrowUp": 38, "ArrowDown": 40}.get(key, ord(key[0].upper())))

    def click(self, selector):
        x, y = self.value(f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
                          "e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect();"
                          "return [b.x + b.width / 2, b.y + b.height / 2]; })()")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path, whole=True):
        """whole: the window is made as high as the page. What moves has come to rest."""
        os.makedirs(os.path.dirname(path), exist_ok=True)
        width, height = self.value("[innerWidth, innerHeight]")
        if whole:
            self.size(width, max(height, self.value("document.documentElement.scrollHeight")))
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=0, y=0)
        self.value("new Promise((done) => setTimeout(done, matchMedia('(prefers-reduced-motion: reduce)').matches ? 80 : 450))")
        shot = self.call("Page.captureScreenshot", format="png")
        with open(path, "wb") as file:
            file.write(base64.b64decode(shot["data"]))
        self.size(width, height)

    def close(self):
        self.browser.call("Target.closeTarget", targetId=self.target)
        self.browser.pages.pop(self.session, None)
