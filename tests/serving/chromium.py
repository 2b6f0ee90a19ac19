"""A headless Chromium, driven over its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--no-proxy-server",
    "--remote-debugging-port=0",
)  # fmt: skip
DOMAINS = ("Page", "Runtime", "Network", "Log", "DOM", "Accessibility")
SECONDS = 20.0
SHIFT = 8  # a modifier


class Page:
    """One tab. `events` are what it told so far, as (method, parameters)."""

    def __init__(self, address: str) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._loop = asyncio.new_event_loop()
        self._number = 0
        self._session, self._socket = self._run(self._connect(address))
        for domain in DOMAINS:
            self.call(f"{domain}.enable")

    def close(self) -> None:
        if self._loop.is_closed():
            return
        self._run(self._socket.close())
        self._run(self._session.close())
        self._loop.close()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The command's result; the events that came before it are kept."""
        self._number += 1
        result: dict[str, Any] = self._run(asyncio.wait_for(self._call(self._number, method, parameters), SECONDS))
        return result

    def open(self, url: str) -> None:
        """Goes there, and waits until the page asked for its model and has got an answer."""
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")
        self.wait("!(document.getElementById('about')?.textContent ?? '…').endsWith('…')")

    def value(self, script: str) -> Any:
        """Of an expression in the page, as a JSON value; promises are waited for."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def text(self, id: str) -> str:
        return str(self.value(f"document.getElementById({id!r}).innerText"))

    def wait(self, condition: str) -> None:
        deadline = time.monotonic() + SECONDS
        while not self.value(condition):
            assert time.monotonic() < deadline, f"{condition}: {self.value('document.body.innerText')}"
            time.sleep(0.02)

    def choose(self, path: Path) -> None:
        """As in the dialog that the file field opens."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def press(self, key: str, code: int, modifiers: int = 0, text: str = "") -> None:
        known = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **known)
        self.call("Input.dispatchKeyEvent", type="keyUp", **known)

    def tab(self, back: bool = False) -> None:
        self.press("Tab", 9, SHIFT * back)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def resize(self, width: int, height: int) -> None:
        size = {"width": width, "height": height}
        self.call("Emulation.setDeviceMetricsOverride", deviceScaleFactor=1, mobile=False, **size)

    def screenshot(self, place: Path) -> None:
        place.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]))

    def tree(self) -> list[dict[str, Any]]:
        """What a screen reader sees: role, name and properties of each node that is not ignored."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [
            {
                "role": node["role"]["value"],
                "name": node.get("name", {}).get("value", ""),
                **{found["name"]: found["value"].get("value") for found in node.get("properties", [])},
            }
            for node in nodes
            if not node["ignored"]
        ]

    def requests(self) -> list[str]:
        """The addresses that the page asked for, whether or not they were allowed."""
        return [told["request"]["url"] for method, told in self.events if method == "Network.requestWillBeSent"]

    def complaints(self) -> list[str]:
        """What stands in the console: messages, exceptions, blocked and failed requests."""
        self.value("0")  # what happened before is told by now
        found = []
        for method, told in self.events:
            if method == "Log.entryAdded":
                found.append(str(told["entry"]["text"]))
            elif method == "Runtime.consoleAPICalled":
                found.append(str(told["args"]))
            elif method == "Runtime.exceptionThrown":
                found.append(str(told["exceptionDetails"]))
        return found

    async def _connect(self, address: str) -> tuple[aiohttp.ClientSession, aiohttp.ClientWebSocketResponse]:
        session = aiohttp.ClientSession(trust_env=False)
        return session, await session.ws_connect(address, max_msg_size=0)

    async def _call(self, number: int, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            told = await self._socket.receive_json()
            if told.get("id") == number:
                assert "error" not in told, told
                result: dict[str, Any] = told["result"]
                return result
            if "method" in told:
                self.events.append((told["method"], told["params"]))

    def _run(self, work: Any) -> Any:
        return self._loop.run_until_complete(work)


@contextmanager
def chromium(place: Path) -> Iterator[Callable[[], Page]]:
    """Opens tabs of a browser with a profile of its own, which ends with the block."""
    pages: list[Page] = []
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={place}", "about:blank"]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet) as process:
        try:
            port = _port(place / "DevToolsActivePort", process)

            def tab() -> Page:
                request = urllib.request.Request(f"http://127.0.0.1:{port}/json/new?about:blank", method="PUT")
                with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                    request, timeout=SECONDS
                ) as told:
                    pages.append(Page(json.load(told)["webSocketDebuggerUrl"]))
                    return pages[-1]

            yield tab
        finally:
            for page in pages:
                page.close()
            process.terminate()
            try:
                process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _port(told: Path, process: subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        lines = told.read_text().split() if told.exists() else []
        if len(lines) == 2:
            return int(lines[0])
        time.sleep(0.05)
    raise AssertionError("the browser did not say where it listens")
