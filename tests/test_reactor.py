"""The reactor's timers, which a step of the wall clock must not move."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.reactor import reactor
from tests.support.stepped_clock import DAY, HOUR, SteppedClock

SOON, EARLY, LATE = 0.1, 0.2, 1_000.0

TIMERS = f"""
import os, sys, time
from twisted.application.reactors import installReactor
installReactor(sys.argv[1])
from mig.reactor import get_reactor

reactor = get_reactor()
start = time.time()

def step_clock():
    os.rename("stepped", os.environ["FAKETIME_TIMESTAMP_FILE"])

def end(which):
    print(which, round(time.time() - start))
    reactor.crash()

reactor.callLater({SOON}, step_clock)
reactor.callLater({LATE}, end, "late")
reactor.callLater({EARLY}, end, "early")
reactor.run()
"""


@pytest.mark.parametrize("name", ["epoll", "poll", "select", "asyncio"])
@pytest.mark.parametrize("step", [DAY, -HOUR])
def test_timers_fire_in_their_time_when_the_clock_steps(
    name: str, step: int, tmp_path: Path
) -> None:
    clock = SteppedClock(tmp_path)
    (tmp_path / "stepped").write_text(f"{step:+d}\n")
    done = subprocess.run(
        [sys.executable, "-P", "-c", TIMERS, name],
        cwd=tmp_path,
        env={**os.environ, **clock.environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    fired = [line.split() for line in done.stdout.splitlines()]
    assert [which for which, _ in fired] == ["early"], done
    assert abs(int(fired[0][1]) - step) < 60


def test_a_timer_that_is_postponed_counts_from_now() -> None:
    timer = reactor.callLater(0, lambda: None)
    timer.reset(LATE)
    assert 0 <= timer.getTime() - reactor.seconds() <= LATE
    timer.cancel()


def test_the_clock_is_not_changed_under_a_timer() -> None:
    program = """
from twisted.internet import reactor
reactor.callLater(1, reactor.stop)
from mig.reactor import get_reactor
get_reactor()
"""
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True)
    assert "must be called before anything is scheduled" in done.stderr
