"""Debian's chromium without a window, spoken to in the DevTools protocol over a pipe: no driver, no port, no package."""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking", "--no-first-run", "--remote-debugging-pipe",
    "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--hide-scrollbars",
)  # fmt: skip


class Browser:
    """One page. `console` has what it wrote there as a warning or an error, `requests` every address that it asked for."""

    def __init__(self, profile: Path, width: int = 1440, height: int = 900) -> None:
        down, up = os.pipe(), os.pipe()
        theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (down[0], up[1])]
        command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "about:blank"]

        def read_3_write_4() -> None:
            for number, end in zip((3, 4), theirs, strict=True):
                os.dup2(end, number)

        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, pass_fds=(3, 4), preexec_fn=read_3_write_4, **quiet)  # type: ignore[call-overload]
        for end in (down[0], up[1], *theirs):
            os.close(end)
        self._in, self._out = os.fdopen(down[1], "wb", 0), os.fdopen(up[0], "rb")
        self._numbers, self._waiting, self._session = itertools.count(1), bytearray(), ""
        self.console: list[str] = []
        self.requests: list[str] = []
        (target,) = [one for one in self.call("Target.getTargets")["targetInfos"] if one["type"] == "page"]
        self._session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.resize(width, height)

    @property
    def process_id(self) -> int:
        """Of the browser; its page and what draws it are children of it."""
        return self._process.pid

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._in.close()
        self._process.kill()
        self._process.wait()
        self._out.close()

    def call(self, method: str, **parameters: Any) -> Any:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters} | ({"sessionId": self._session} if self._session else {})
        self._in.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._waiting:
            block = os.read(self._out.fileno(), 1 << 16)
            if not block:
                raise RuntimeError("the browser has gone")
            self._waiting += block
        message, _, rest = bytes(self._waiting).partition(b"\0")
        self._waiting = bytearray(rest)
        return dict(json.loads(message))

    def _note(self, event: dict[str, Any]) -> None:
        about = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"][:200])
        elif event.get("method") == "Runtime.exceptionThrown":
            self.console.append(str(about["exceptionDetails"].get("exception", about["exceptionDetails"])))
        elif event.get("method") == "Log.entryAdded" and about["entry"]["level"] in ("warning", "error"):
            self.console.append(about["entry"]["text"])
        elif event.get("method") == "Runtime.consoleAPICalled" and about["type"] in ("warning", "error", "assert"):
            self.console.append(str([one.get("value", one.get("description")) for one in about["args"]]))

    def resize(self, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def open(self, address: str, seconds: float = 200) -> float:
        """Opens a page of a case and waits until its first slice is drawn; returns the seconds that took."""
        start = time.monotonic()
        self.call("Page.navigate", url=address)
        while not self.run("typeof element === 'function' && element('status') !== null && element('status').textContent === ''"):
            if time.monotonic() > start + seconds:
                raise TimeoutError(f"{address}: {self.run('document.body.innerText')} {self.console}")
            time.sleep(0.05)
        return time.monotonic() - start

    def run(self, script: str) -> Any:
        """The value of an expression in the page; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"].get("exception", answer["exceptionDetails"])))
        return answer["result"].get("value")

    def drag(self, *points: tuple[float, float]) -> None:
        """The left button goes down at the first point, over the others, and up at the last."""
        for place, (x, y) in enumerate(points):
            kind = "mousePressed" if place == 0 else "mouseMoved"
            self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, buttons=1 if place else 0)
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)
            self.run("new Promise((done) => requestAnimationFrame(() => done(true)))")  # NiiVue draws what it knows at the next frame
        self.call("Input.dispatchMouseEvent", type="mouseReleased", x=points[-1][0], y=points[-1][1], button="left", clickCount=1)

    def key(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key if len(key) > 1 else f"Key{key.upper()}")

    def picture(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))
