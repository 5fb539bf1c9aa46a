"""The reactor of the process, and the two kinds of clocks.

The reactor's clock is monotonic: it measures how long something takes. The wall clock tells the
time of day, and may step at any moment. docs/decisions/0046 says which is used for what.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final, cast

from twisted.internet.interfaces import (
    IReactorCore,
    IReactorFDSet,
    IReactorPluggableNameResolver,
    IReactorProcess,
    IReactorSocket,
    IReactorThreads,
    IReactorTime,
)
from twisted.internet.task import deferLater

SLICE_SECONDS: Final = 0.005
"""How long a long computation runs before others have their turn."""

WallClock = Callable[[], float]
"""A function that returns the time of day in Unix seconds, as ``time.time`` does.

What depends on the time of day takes one: the validity of actions, keys and signatures, the header
Date, and the default window of searches.
"""


class Reactor(
    IReactorCore,
    IReactorFDSet,
    IReactorPluggableNameResolver,
    IReactorProcess,
    IReactorSocket,
    IReactorThreads,
    IReactorTime,
):
    """The interfaces that every reactor of Twisted provides on POSIX systems.

    Code that needs one interface names it as the type of its reactor; code that needs several names
    this class, since Python has no type for the intersection of two.
    """


def get_reactor() -> Reactor:
    """Return the reactor of this process, whose clock is monotonic from the first call on.

    :raises RuntimeError: when something was scheduled by the clock that the reactor had before.
    """
    # the first import installs a reactor, so a module must not import it while it is loaded
    from twisted.internet import reactor as installed

    reactor = cast(Reactor, installed)
    if reactor.seconds is not time.monotonic:
        _use_monotonic_clock(reactor)
    return reactor


def _use_monotonic_clock(reactor: Reactor) -> None:
    """Give the reactor a clock that never steps; Twisted's own is the wall clock."""
    if reactor.getDelayedCalls():
        raise RuntimeError("mig.reactor.get_reactor must be called before anything is scheduled")
    # every timer of Twisted reads this attribute, private: docs/twisted-internals.md
    reactor.seconds = time.monotonic  # type: ignore[method-assign]


async def run_in_slices(clock: IReactorTime, steps: Iterator[object]) -> None:
    """Run the short ``steps`` of a long computation, and serve others between slices of it."""
    began = clock.seconds()
    for _ in steps:
        if clock.seconds() - began >= SLICE_SECONDS:
            await deferLater(clock, 0)
            began = clock.seconds()
