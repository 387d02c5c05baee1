"""Opens a page in headless Chromium and says what a reader would meet, over the browser's debugging
pipe: no driver and no other package.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-extensions", "--hide-scrollbars", "--remote-debugging-pipe", "--disable-background-networking",
)  # fmt: skip

AS_THREE_AND_FOUR = """import os, sys
for given, wanted in zip(sys.argv[1:3], (103, 104)): os.dup2(int(given), wanted)
for given, wanted in ((103, 3), (104, 4)): os.dup2(given, wanted)
os.execv(sys.argv[3], sys.argv[3:])"""  # the numbers that the browser's pipe has


def find_browser() -> str | None:
    """Chromium or a relative of it, None where none is installed."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Page:
    """A page of the browser; `problems` collects what its console complains of."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = os.fdopen(commands, "wb", 0), os.fdopen(answers, "rb")
        self._numbers = count(1)
        self._session: str | None = None
        self.problems: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """Ends the conversation."""
        self._commands.close()
        self._answers.close()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the DevTools protocol and its answer."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def open(
        self, address: Path | str, width: int, height: int = 800, scheme: str = "light"
    ) -> None:
        """Loads a file or an address in a window of that size."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)
        url = address if isinstance(address, str) else address.absolute().as_uri()
        self.call("Page.navigate", url=url)
        while self._read().get("method") != "Page.loadEventFired":
            pass

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression on the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"].get("value")

    def image(self, path: Path, begin: int = 0, height: int | None = None) -> None:
        """Writes the page, or a part of it, as a .png file."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {
            "x": 0,
            "y": begin,
            "width": size["width"],
            "height": height or size["height"],
            "scale": 1,
        }
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
        path.write_bytes(base64.b64decode(data))

    def _read(self) -> dict[str, Any]:
        text = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            assert byte, "the browser has gone"
            text += byte
        message: dict[str, Any] = json.loads(text)
        params = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.problems.append(str(params["exceptionDetails"]))
        elif message.get("method") == "Runtime.consoleAPICalled" and params["type"] in (
            "error",
            "warning",
        ):
            self.problems.append(str(params["args"]))
        elif message.get("method") == "Log.entryAdded" and params["entry"]["level"] in (
            "error",
            "warning",
        ):
            self.problems.append(params["entry"]["text"])
        elif message.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        return message


@contextmanager
def opened(browser: str, profile: Path, *flags: str) -> Iterator[Page]:
    """A browser with one page, its profile in a folder; ended afterwards."""
    read_commands, commands = os.pipe()
    answers, write_answers = os.pipe()

    process = subprocess.Popen(
        [sys.executable, "-c", AS_THREE_AND_FOUR, str(read_commands), str(write_answers),
         browser, *FLAGS, *flags, f"--user-data-dir={profile}", "about:blank"],
        pass_fds=(read_commands, write_answers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(read_commands)
    os.close(write_answers)
    try:
        with closing(Page(commands, answers)) as page:
            yield page
    finally:
        process.terminate()
        process.wait(20)
