"""The type of the reactor that the service needs."""

from __future__ import annotations

from typing import cast

from twisted.internet.interfaces import (
    IReactorCore,
    IReactorFDSet,
    IReactorPluggableNameResolver,
    IReactorProcess,
    IReactorSocket,
    IReactorThreads,
    IReactorTime,
)


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
    """Return the reactor of this process."""
    # the first import installs a reactor, so a module must not import it while it is loaded
    from twisted.internet import reactor

    return cast(Reactor, reactor)
