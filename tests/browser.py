"""Chromium without a window, driven through a pipe by its DevTools protocol."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from base64 import b64decode
from pathlib import Path
from typing import Any

PATIENCE = 120.0
"""Seconds for one answer; a machine may be busy."""


def chromium() -> str | None:
    """Where Chromium is, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Browser:
    """A page in Chromium; what it logs and asks the network for is kept."""

    def __init__(self, profile: Path) -> None:
        (theirs_in, self.out), (self.into, theirs_out) = os.pipe(), os.pipe()
        os.set_blocking(self.into, False)
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        flags += ["--hide-scrollbars", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        pipes = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'  # where Chromium reads and writes
        self.process = subprocess.Popen(
            ["bash", "-c", pipes, "bash", str(chromium()), *flags],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.buffer, self.number = b"", 0
        self.session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self.session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **params: Any) -> dict[str, Any]:
        """Ask for something and wait for the answer."""
        self.number += 1
        asked = {"id": self.number, "method": method, "params": params}
        asked |= {"sessionId": self.session} if self.session else {}
        os.write(self.out, json.dumps(asked).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self.number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self.events.append(answer)

    def _read(self) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE
        while b"\0" not in self.buffer:
            try:
                self.buffer += os.read(self.into, 1 << 20)
            except BlockingIOError:
                assert self.process.poll() is None, "Chromium ended"
                assert time.monotonic() < until, "Chromium does not answer"
                time.sleep(0.005)
        text, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(text)

    def open(self, page: Path, width: int = 900, height: int = 900) -> None:
        """Open a file and wait until it says that it is ready."""
        self("Emulation.setDeviceMetricsOverride", width=width, height=height,
             deviceScaleFactor=1, mobile=False)  # fmt: skip
        self("Page.navigate", url=page.as_uri())
        until = time.monotonic() + PATIENCE
        while self.run("document.documentElement?.dataset.ready") != "true":
            assert time.monotonic() < until, self.complaints
            time.sleep(0.02)

    def run(self, script: str) -> Any:
        """What a script comes to, promises included."""
        found = self("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def key(self, name: str, code: int) -> None:
        """Press a key."""
        for kind in ("rawKeyDown", "keyUp"):
            self("Input.dispatchKeyEvent", type=kind, key=name, code=name,
                 windowsVirtualKeyCode=code)  # fmt: skip

    def picture(self, path: Path) -> None:
        """The whole page as a PNG."""
        size = self("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(b64decode(shot["data"]))

    def pdf(self) -> bytes:
        """The page as it is printed."""
        return b64decode(self("Page.printToPDF", printBackground=True)["data"])

    @property
    def complaints(self) -> list[Any]:
        """What the console says, exceptions included."""
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [event["params"] for event in self.events if event["method"] in kinds]

    @property
    def requests(self) -> list[str]:
        """What was asked of disk or network."""
        sent = (e["params"] for e in self.events if e["method"] == "Network.requestWillBeSent")
        return [event["request"]["url"] for event in sent]

    def close(self) -> None:
        """End the browser."""
        self.process.terminate()
        self.process.wait()
        os.close(self.out)
        os.close(self.into)
