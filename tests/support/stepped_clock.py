"""A wall clock that a test steps while a program runs, as NTP or an administrator does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.support.programs import find_program

DAY = 86_400
HOUR = 3_600


class SteppedClock:
    """The wall clock of the programs that have its *environment*; their monotonic clock is real.

    Where libfaketime is not installed, the test is skipped.
    """

    def __init__(self, folder: Path) -> None:
        find_program("faketime")
        self._file = folder / "clock"
        self.step(0)

    @property
    def environment(self) -> Mapping[str, str]:
        return {
            "LD_PRELOAD": "/usr/$LIB/faketime/libfaketimeMT.so.1",
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def step(self, seconds: int) -> None:
        """Step the clock to *seconds* after the time of this process."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.rename(self._file)
