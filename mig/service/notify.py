"""What the daemon tells systemd: that it is ready, alive, stopping (sd_notify(3))."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"
_WATCHDOG: Final = "WATCHDOG=1"


class SystemdNotifier:
    """Sends the state of this process to systemd, if systemd has started it.

    :param clock: when the next sign of life is due.
    :param environment: the environment of the process.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        # a daemon that has forked is not the process that systemd watches
        is_watched = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environment.get("WATCHDOG_USEC", "") if is_watched else ""
        self._watchdog_seconds = int(microseconds) / 1e6 if microseconds.isdecimal() else 0.0
        self._watchdog = LoopingCall(self.notify, _WATCHDOG)
        self._watchdog.clock = clock

    def start(self) -> None:
        """Say that the daemon is ready, and then that it is alive, twice as often as asked."""
        self.notify(READY)
        if self._address and self._watchdog_seconds:
            running = self._watchdog.start(self._watchdog_seconds / 2)
            running.addErrback(lambda failure: self.log.failure("no more signs of life", failure))

    def stop(self, seconds: float) -> None:
        """Say that the daemon is stopping, and has not hung if it takes ``seconds``."""
        if self._watchdog.running:
            self._watchdog.stop()
        self.notify(f"{STOPPING}\nEXTEND_TIMEOUT_USEC={seconds * 1e6:.0f}")

    def notify(self, state: str) -> None:
        """Send ``state``, such as ``READY=1``; a message that would block is lost."""
        if not self._address:
            return
        # a leading @ means the abstract namespace of Linux, which is written as NUL
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            try:
                sender.sendto(state.encode(), address)
            except OSError as reason:
                self.log.warn(
                    "systemd cannot be told {state}: {reason}", state=state, reason=reason
                )
