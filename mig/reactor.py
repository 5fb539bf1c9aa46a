"""The reactor, with all that the parts of the service need of it."""

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
    """What every reactor of Twisted provides on the systems that we run on.

    A part that needs one of these interfaces asks for that one, and a part that needs more for all
    of them: a type checker knows no other way to ask for two.
    """


def get_reactor() -> Reactor:
    """Return the reactor of this process; the first import of it installs one."""
    from twisted.internet import reactor

    return cast(Reactor, reactor)
