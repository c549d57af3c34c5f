"""A headless Chromium driven through its DevTools protocol: enough to open a page, ask it and look at it."""

import asyncio
import base64
import itertools
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
"""Empty where there is none."""

MISSING = "no chromium on PATH: the fleet page is not looked at"

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
]

WAIT_SECONDS = 30.0

_UNTIL = """new Promise((done, fail) => {
  const end = Date.now() + %d;
  const look = () => {
    const value = (() => { try { return (%s); } catch (error) { return false; } })();
    if (value) done(true);
    else if (Date.now() > end) fail(new Error("still not so: " + %s));
    else setTimeout(look, 10);
  };
  look();
})"""


class PageError(Exception):
    """The page answered with an exception; the message is its own."""


class Page:
    """One tab. Collects what it logs as an error and every address it asks for."""

    def __init__(self, browser: "Browser", session: str) -> None:
        self._browser = browser
        self._session = session
        self.errors: list[str] = []
        self.requests: list[str] = []

    def hear(self, method: str, params: dict[str, Any]) -> None:
        """Take note of one event of this tab."""
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in {"error", "warning"}:
            self.errors.append(str([each.get("value") for each in params["args"]]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One DevTools command in this tab."""
        return await self._browser.call(method, session=self._session, **params)

    async def go(self, url: str) -> None:
        """Open an address."""
        await self.call("Page.navigate", url=url)

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; promises are awaited."""
        answer = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise PageError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    async def until(self, condition: str) -> None:
        """Wait until a JavaScript condition holds."""
        milliseconds = int(WAIT_SECONDS * 1000)
        await self.evaluate(_UNTIL % (milliseconds, condition, json.dumps(condition)))

    async def look_like(self, width: int, height: int, *, dark: bool = False) -> None:
        """Set the window's size and the theme the user prefers."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        theme = "dark" if dark else "light"
        await self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": theme}],
        )

    async def screenshot(self, path: Path) -> None:
        """Write what is visible as PNG."""
        answer = await self.call("Page.captureScreenshot", format="png")
        await asyncio.to_thread(path.write_bytes, base64.b64decode(answer["data"]))


class Browser:
    """One browser process and the line to it."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._pages: dict[str, Page] = {}

    async def listen(self) -> None:
        """Read answers and events until the line ends."""
        async for message in self._socket:
            data = json.loads(message.data)
            if "id" in data:
                answer = self._answers.pop(data["id"])
                if not answer.done():
                    answer.set_result(data)
            elif page := self._pages.get(data.get("sessionId", "")):
                page.hear(data["method"], data["params"])

    async def call(self, method: str, *, session: str = "", **params: Any) -> dict[str, Any]:
        """One command; its result."""
        number = next(self._numbers)
        answer = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        message = {"id": number, "method": method, "params": params}
        await self._socket.send_json(message | ({"sessionId": session} if session else {}))
        async with asyncio.timeout(WAIT_SECONDS + 5):
            data = await answer
        if "error" in data:
            raise PageError(f"{method}: {data['error']}")
        result: dict[str, Any] = data["result"]
        return result

    async def page(self) -> Page:
        """An empty tab that is being watched."""
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        page = Page(self, attached["sessionId"])
        self._pages[attached["sessionId"]] = page
        for domain in ("Page", "Runtime", "Network", "Log"):
            await page.call(f"{domain}.enable")
        return page


@asynccontextmanager
async def chromium(folder: Path) -> AsyncIterator[Browser]:
    """A fresh browser with its profile in an empty folder; gone when the block ends."""
    process = await asyncio.create_subprocess_exec(
        CHROMIUM,
        *FLAGS,
        f"--user-data-dir={folder}",
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    drain: asyncio.Task[bytes] | None = None
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            address = await _address(process.stderr)
        drain = asyncio.create_task(process.stderr.read(), name="chromium-stderr")
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(address, max_msg_size=0) as socket,
        ):
            browser = Browser(socket)
            listener = asyncio.create_task(browser.listen(), name="chromium-listener")
            try:
                yield browser
            finally:
                await browser.call("Browser.close")
                await listener
    finally:
        if process.returncode is None:
            try:
                async with asyncio.timeout(10):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
        if drain is not None:
            await drain


async def _address(stderr: asyncio.StreamReader) -> str:
    seen = []
    async for line in stderr:
        text = line.decode(errors="replace").strip()
        if text.startswith("DevTools listening on "):
            return text.removeprefix("DevTools listening on ")
        seen.append(text)
    raise PageError(f"chromium ended at once: {seen[-5:]}")
