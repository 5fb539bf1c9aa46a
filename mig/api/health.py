"""Whether the service can answer, for load balancers and for operators."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Literal

import msgspec
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime

from mig import __version__
from mig.access.caller import Caller
from mig.api.responder import refuse_parameters
from mig.errors import UnavailableError, describe_error
from mig.web.request import Request

MAX_AGE_SECONDS: Final = 2.0
"""How old the state of a part may be when it is asked for; it is checked again after that."""

CHECK_SECONDS: Final = 2.5
"""How long a check may take. With the age, no answer is older than 5 s."""

STOPPING: Final = "the daemon is stopping"

State = Literal["ok", "failing"]
Status = Literal["ok", "degraded", "failing"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the service.

    :param check: raises an error when the part does not work.
    :param is_essential: whether nothing can be answered without it.
    """

    name: str
    check: Callable[[], Awaitable[object]]
    is_essential: bool


class PartState(msgspec.Struct, frozen=True):
    """The state of a part; ``age`` is in seconds, ``reason`` says why it fails."""

    state: State
    age: float
    reason: str | None


class Readiness(msgspec.Struct, frozen=True):
    """The state of the service: ``failing`` when an essential part fails."""

    status: Status
    parts: dict[str, PartState]


@dataclass(kw_only=True)
class _Checked:
    checked: float
    reason: str | None


class HealthMonitor:
    """Knows the state of every part, and checks one again when somebody asks and it is old.

    However many ask, each part is checked once at a time.

    :param clock: the clock of ages and of the time limit of a check.
    """

    def __init__(self, clock: IReactorTime, parts: Sequence[Part]) -> None:
        self._clock = clock
        self._parts = parts
        self._checked: dict[str, _Checked] = {}
        self._waiting: list[Deferred[None]] = []
        self.is_stopping = False
        """Whether the daemon stops, so that nobody should send it more requests."""

    async def check(self) -> Readiness:
        """Return the state of all parts."""
        if self._find_old():
            await self._refresh()
        now = self._clock.seconds()
        states = {part.name: _describe(self._checked[part.name], now) for part in self._parts}
        failing = {part.is_essential for part in self._parts if states[part.name].reason}
        if self.is_stopping:
            states["daemon"] = PartState(state="failing", age=0.0, reason=STOPPING)
            failing.add(True)
        status: Status = "failing" if True in failing else "degraded" if failing else "ok"
        return Readiness(status=status, parts=states)

    def _find_old(self) -> list[Part]:
        oldest = self._clock.seconds() - MAX_AGE_SECONDS
        return [
            part
            for part in self._parts
            if part.name not in self._checked or self._checked[part.name].checked < oldest
        ]

    async def _refresh(self) -> None:
        """Check the old parts, or wait for the check that runs."""
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        if len(self._waiting) == 1:
            checks = [Deferred.fromCoroutine(self._check_part(part)) for part in self._find_old()]
            DeferredList(checks).addCallback(self._end_refresh)
        await waiting

    def _end_refresh(self, _: object) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.called:  # its client may have left
                each.callback(None)

    async def _check_part(self, part: Part) -> None:
        reason = None
        checking = Deferred.fromCoroutine(_await(part.check()))
        checking.addTimeout(CHECK_SECONDS, self._clock, _raise_timeout)
        try:
            await checking
        except Exception as error:
            reason = describe_error(error) or type(error).__name__
        self._checked[part.name] = _Checked(checked=self._clock.seconds(), reason=reason)


async def _await(check: Awaitable[object]) -> None:
    await check


def _raise_timeout(result: object, seconds: float) -> None:
    raise UnavailableError(f"no answer within {seconds:g} s")


def _describe(checked: _Checked, now: float) -> PartState:
    return PartState(
        state="ok" if checked.reason is None else "failing",
        age=round(now - checked.checked, 3),
        reason=checked.reason,
    )


class HealthResource:
    """The handlers of health checks.

    :param monitor: knows the state of the service.
    :param read_metrics: returns the metrics of the daemon, in the format of Prometheus.
    """

    def __init__(
        self, monitor: HealthMonitor, read_metrics: Callable[[], Awaitable[bytes]]
    ) -> None:
        self._monitor = monitor
        self._read_metrics = read_metrics

    async def get_readiness(self, request: Request, caller: Caller) -> bytes:
        """Return whether the service can answer, without a detail: anybody may ask."""
        refuse_parameters(request)
        readiness = await self._monitor.check()
        return request.prepare_text(*_choose_answer(readiness))

    async def get_detailed_readiness(self, request: Request, caller: Caller) -> bytes:
        """Return the state of every part, for operators."""
        refuse_parameters(request)
        readiness = await self._monitor.check()
        _, status = _choose_answer(readiness)
        return request.prepare_json(msgspec.json.encode(readiness), status)

    async def get_liveness(self, request: Request, caller: Caller) -> bytes:
        """Return that the process answers."""
        refuse_parameters(request)
        return request.prepare_text(b"ok\n")

    async def get_metrics(self, request: Request, caller: Caller) -> bytes:
        """Return the metrics of the daemon."""
        refuse_parameters(request)
        return request.prepare_text(await self._read_metrics())

    async def get_version(self, request: Request, caller: Caller) -> bytes:
        """Return the version of the program."""
        refuse_parameters(request)
        return request.prepare_json(msgspec.json.encode({"version": __version__}))


def _choose_answer(readiness: Readiness) -> tuple[bytes, HTTPStatus]:
    if readiness.status == "failing":
        return b"failing\n", HTTPStatus.SERVICE_UNAVAILABLE
    return b"ok\n", HTTPStatus.OK
