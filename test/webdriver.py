"""A browser for tests: chromium through chromedriver, in the words of the W3C's WebDriver protocol.

Needs both programs on PATH and no package; `find_programs` says what is missing.
"""

import base64
import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

NAMES = {"browser": ("chromium", "chromium-browser", "google-chrome"), "driver": ("chromedriver",)}
ARGUMENTS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--no-first-run", "--hide-scrollbars"),
)
KEYS = {"Tab": "\ue004", "Enter": "\ue007", "Home": "\ue011", "End": "\ue010", "Left": "\ue012", "Right": "\ue014",
        "Down": "\ue015", "Space": " "}  # fmt: skip
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # key of a reference to an element


def find_programs():
    """Return ({"browser": path, "driver": path}, names of those that are missing)."""
    found = {kind: next(filter(None, map(shutil.which, names)), None) for kind, names in NAMES.items()}
    return found, [" or ".join(NAMES[kind]) for kind, path in found.items() if path is None]


class Browser:
    """One window. `room`: a new directory for its profile and logs. `arguments`: further ones of the browser."""

    def __init__(self, programs, room, arguments=()):
        self._log = open(Path(room) / "driver.log", "wb")
        self._driver = subprocess.Popen(
            [programs["driver"], "--port=0"], stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        self._root = None
        try:
            for line in self._driver.stdout:
                if match := re.search(r"successfully on port (\d+)", line):
                    break
            else:
                raise RuntimeError(f"chromedriver did not start; see {room}/driver.log")
            self._root = f"http://127.0.0.1:{match[1]}/session"
            options = {
                "binary": programs["browser"],
                "args": [*ARGUMENTS, *arguments, f"--user-data-dir={room}/profile"],
            }
            wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            session = self._call("", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
            self._root += f"/{session}"
        except BaseException:
            self._driver.kill()
            raise

    def _call(self, path, body=None, method=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._root + path, data, {"Content-Type": "application/json"}, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as err:
            raise RuntimeError(f"{path}: {json.load(err)['value']['message']}") from None

    def close(self):
        try:
            self._call("", method="DELETE")
        finally:
            self._driver.terminate()
            self._driver.wait(timeout=20)
            self._driver.stdout.close()
            self._log.close()

    def open(self, url):
        self._call("/url", {"url": url})

    def run(self, script, *args):
        """Return the value of a JavaScript function body; `arguments` are `args`."""
        return self._call("/execute/sync", {"script": script, "args": args})

    def _find(self, selector):
        return self._call("/element", {"using": "css selector", "value": selector})[_ELEMENT]

    def click(self, selector):
        self._call(f"/element/{self._find(selector)}/click", {})

    def choose(self, selector, path):
        """Choose a file in an <input type=file>."""
        self._call(f"/element/{self._find(selector)}/value", {"text": str(path)})

    def press(self, *keys):
        """Press and release keys one after the other, wherever the focus is; names as in `KEYS`, or characters."""
        steps = []
        for key in (KEYS.get(key, key) for key in keys):
            steps += [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self._call("/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": steps}]})

    def wait_for(self, script, *args, seconds=60):
        """The value of a JavaScript function body, asked again until it is not false, null or empty."""
        end = time.monotonic() + seconds
        while not (value := self.run(script, *args)):
            if time.monotonic() > end:
                raise AssertionError(f"waited too long for: {script}")
            time.sleep(0.05)
        return value

    def messages(self):
        """Return what was written to the console since the last call, as text."""
        return [entry["message"] for entry in self._call("/se/log", {"type": "browser"})]

    def emulate(self, width, height, dark=False):
        """Show pages as on a screen of this size in CSS pixels, in the light or dark scheme."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.devtools("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", {"features": [scheme]})

    def screenshot(self, path):
        Path(path).write_bytes(base64.b64decode(self._call("/screenshot")))

    def devtools(self, command, parameters):
        """The answer to a command of Chromium's own protocol."""
        return self._call("/goog/cdp/execute", {"cmd": command, "params": parameters})
