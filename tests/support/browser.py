"""A headless Chromium, driven over the Chrome DevTools Protocol."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.programs import find_program

SECONDS = 60.0
"""How long a browser may take for one answer."""

_OPTIONS = (
    "--remote-debugging-pipe",
    "--no-sandbox",  # which Chromium needs as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
)
_FIRST_FREE_DESCRIPTOR = 10
_VIOLATION = "ContentSecurityPolicyIssue"
_Message = dict[str, Any]


class Browser:
    """A running browser.

    Its methods block: the server of the pages must run in another process or thread.
    """

    def __init__(self, profile: Path) -> None:
        program = find_program("chromium-headless-shell")
        to_browser, self._commands = os.pipe()
        self._answers, from_browser = os.pipe()
        # The browser has them as its descriptors 3 and 4; bash must not close one for the other.
        inherited = []
        for descriptor in (to_browser, from_browser):
            inherited.append(fcntl.fcntl(descriptor, fcntl.F_DUPFD, _FIRST_FREE_DESCRIPTOR))
            os.close(descriptor)
        self._process = subprocess.Popen(
            [
                *("bash", "-c", 'exec "$@" 3<&{} 4>&{}'.format(*inherited), "bash"),
                *(program, *_OPTIONS, f"--user-data-dir={profile}"),
            ],
            pass_fds=inherited,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Debian's program is a script with the browser as its child
        )
        for descriptor in inherited:
            os.close(descriptor)
        self._poll = select.poll()
        self._poll.register(self._answers, select.POLLIN)
        self._received = b""
        self._last_id = 0
        self._events: list[_Message] = []

    @contextmanager
    def open_page(self, url: str) -> Iterator[Page]:
        """Return a new page, loaded from *url*, with cookies and storage of its own."""
        context = self.send("Target.createBrowserContext")["browserContextId"]
        target = self.send("Target.createTarget", url="about:blank", browserContextId=context)
        attached = self.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        page = Page(self, attached["sessionId"])
        page.open(url)
        yield page
        self.send("Target.disposeBrowserContext", browserContextId=context)

    def send(self, method: str, session: str | None = None, **parameters: object) -> _Message:
        """Return the result of a command."""
        self._last_id += 1
        command: _Message = {"id": self._last_id, "method": method, "params": parameters}
        if session:
            command["sessionId"] = session
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while (message := self._read_message()).get("id") != self._last_id:
            self._events.append(message)
        assert "error" not in message, (method, message)
        result: _Message = message["result"]
        return result

    def read_event(self) -> _Message:
        """Return the next event of any page."""
        return self._events.pop(0) if self._events else self._read_message()

    def take_events(self) -> list[_Message]:
        """Return the events that have arrived and were not read."""
        events, self._events = self._events, []
        return events

    def _read_message(self) -> _Message:
        end = time.monotonic() + SECONDS
        while b"\0" not in self._received:
            remaining = max(end - time.monotonic(), 0)
            assert self._poll.poll(remaining * 1000), (
                f"the browser has not answered within {SECONDS:g} s"
            )
            piece = os.read(self._answers, 1 << 20)
            assert piece, "the browser has ended"
            self._received += piece
        message, _, self._received = self._received.partition(b"\0")
        parsed: _Message = json.loads(message)
        return parsed

    def stop(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._commands)
        os.close(self._answers)


class Page:
    """A page in a tab; ``problems`` lists what its browser did not like about it.

    Those are violations of the content security policy, resources that could not be loaded, and
    errors of scripts.
    """

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self._is_loaded = False
        self._problems: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Audits"):
            self._send(f"{domain}.enable")

    def open(self, url: str) -> None:
        """Load *url*."""
        self._is_loaded = False
        answer = self._send("Page.navigate", url=url)
        assert not answer.get("errorText"), answer
        self._wait_until_loaded()

    def follow(self, selector: str) -> None:
        """Click on the element *selector*, a link or the button of a form, which loads a page."""
        self._is_loaded = False
        self.click(selector)
        self._wait_until_loaded()

    def click(self, selector: str) -> None:
        """Click on the element *selector* as soon as it is there."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.wait_until(found)
        self.evaluate(f"{found}.click()")

    def fill(self, selector: str, value: str) -> None:
        """Set the value of the field *selector*."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).value = {json.dumps(value)}")

    def type_text(self, selector: str, text: str) -> None:
        """Type *text* into the field *selector* as soon as it is there, and leave the field."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.wait_until(found)
        self.evaluate(f"{found}.focus()")
        self._send("Input.insertText", text=text)
        self.evaluate(f"{found}.blur()")

    def wait_until(self, expression: str) -> None:
        """Wait until an expression of JavaScript is true."""
        self.evaluate(
            "new Promise(resolve => { const check = () =>"
            f" ({expression}) ? resolve() : requestAnimationFrame(check); check() }})"
        )

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript; that of a promise if it is one."""
        answer = self._send(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    @property
    def address(self) -> str:
        """The address of the page."""
        return str(self.evaluate("location.href"))

    @property
    def text(self) -> str:
        """The text that a user sees."""
        return str(self.evaluate("document.body.innerText"))

    @property
    def problems(self) -> list[str]:
        """Everything that the browser has reported until now."""
        # The answer to a command follows what was reported before it.
        self.evaluate("new Promise(resolve => requestAnimationFrame(() => setTimeout(resolve)))")
        for event in self._browser.take_events():
            self._handle(event)
        return self._problems

    def _send(self, method: str, **parameters: object) -> _Message:
        return self._browser.send(method, self._session, **parameters)

    def _wait_until_loaded(self) -> None:
        while not self._is_loaded:
            self._handle(self._browser.read_event())

    def _handle(self, event: _Message) -> None:
        if event.get("sessionId") != self._session:
            return
        parameters = event["params"]
        match event["method"]:
            case "Page.loadEventFired":
                self._is_loaded = True
            case "Log.entryAdded" if parameters["entry"]["level"] == "error":
                self._problems.append(str(parameters["entry"]))
            case "Audits.issueAdded" if parameters["issue"]["code"] == _VIOLATION:
                self._problems.append(str(parameters["issue"]["details"]))
            case "Runtime.exceptionThrown":
                self._problems.append(str(parameters["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if parameters["type"] == "error":
                self._problems.append(str(parameters["args"]))
