"""The machine on which a run was made."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The hardware and software of a run, and its date."""

    cores: int
    cpu: str
    memory_gb: float
    python: str
    postgres: str
    date: str

    @classmethod
    def describe(cls, postgres: str) -> Self:
        """Describe this machine and the PostgreSQL that prints ``postgres`` as its version."""
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return cls(
            cores=len(os.sched_getaffinity(0)),
            cpu=_find_cpu_model(Path("/proc/cpuinfo").read_text()),
            memory_gb=round(memory / 1e9, 1),
            python=platform.python_version(),
            postgres=" ".join(re.findall(r"[0-9]+\.[0-9]+", postgres)[:1]),
            date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        )

    def __str__(self) -> str:
        return (
            f"Machine: {self.cores} cores of {self.cpu}, {self.memory_gb} GB, Python {self.python},"
            f" PostgreSQL {self.postgres}, {self.date}"
        )


def _find_cpu_model(cpuinfo: str) -> str:
    match = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return match[1].strip() if match else platform.machine()
