"""Debian's Chromium without a window, told what to do over a pair of pipes (the DevTools protocol)."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

PATH = shutil.which("chromium")
#: What it would fetch for itself, and what a container does not give it.
_OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--remote-debugging-pipe",
)  # fmt: skip


class Chromium:
    """One browser with one page. Everything that the page logs or asks for is kept in ``events``."""

    def __init__(self) -> None:
        assert PATH is not None
        self._profile = tempfile.TemporaryDirectory()
        theirs, self._commands = os.pipe()
        self._answers, also_theirs = os.pipe()
        # It reads descriptor 3 and writes 4. The shell puts them there: a descriptor of ours may have either number.
        self._process = subprocess.Popen(
            ["/bin/bash", "-c", f'exec 3<&{theirs} 4>&{also_theirs}; exec "$@"', "bash", PATH, *_OPTIONS,
             f"--user-data-dir={self._profile.name}", "about:blank"],
            pass_fds=(theirs, also_theirs), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env={**os.environ, "HOME": self._profile.name},
        )  # fmt: skip
        os.close(theirs)
        os.close(also_theirs)
        self._read = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        targets = self.ask("Target.getTargets")["targetInfos"]
        page = next(one["targetId"] for one in targets if one["type"] == "page")
        self._session = self.ask("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.ask(f"{domain}.enable")

    def close(self) -> None:
        """End the browser."""
        os.close(self._commands)  # its end of input is its end
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._answers)
        self._profile.cleanup()

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            more = os.read(self._answers, 1 << 20)
            assert more, "the browser has ended"
            self._read += more
        text, _, self._read = self._read.partition(b"\0")
        return dict(json.loads(text))

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and return its result."""
        self._number += 1
        session = {"sessionId": self._session} if self._session else {}
        message = {"id": self._number, "method": method, "params": parameters, **session}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            got = self._message()
            if got.get("id") == self._number:
                assert "error" not in got, got
                return dict(got["result"])
            self.events.append(got)

    def open(self, page: Path, *, width: int, dark: bool = False) -> None:
        """Show ``page`` in a window of this width."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.ask("Page.navigate", url=page.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._message())

    def run(self, script: str) -> Any:
        """Return what a script finds in the page; the page's own policy would let none run."""
        done = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def picture(self) -> bytes:
        """Return the whole page as PNG."""
        done = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(done["data"])

    def press(self, key: str, text: str) -> None:
        """Press a key of the keyboard."""
        for kind in ("keyDown", "keyUp"):
            down = {"text": text} if kind == "keyDown" else {}
            self.ask(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=ord(text), **down
            )

    def sheets(self) -> int:
        """Return on how many sheets the page is printed."""
        done = self.ask("Page.printToPDF", preferCSSPageSize=True, printBackground=True)
        return len(re.findall(rb"/Type\s*/Page\b", base64.b64decode(done["data"])))

    def asked_for(self) -> list[str]:
        """Return the addresses of all requests since the page was opened."""
        sent = [one["params"] for one in self.events if one["method"] == "Network.requestWillBeSent"]
        return [one["request"]["url"] for one in sent]

    def logged(self) -> list[dict[str, Any]]:
        """Return what the page has logged, and what the browser complains of."""
        kinds = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        return [one for one in self.events if one["method"] in kinds]
