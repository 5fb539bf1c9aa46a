"""Processor time and resident memory of processes, read from /proc."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_RESIDENT = re.compile(r"^VmRSS:\s+([0-9]+) kB$", re.MULTILINE)
_PEAK = re.compile(r"^VmHWM:\s+([0-9]+) kB$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class ProcessStat:
    """A process: its parent, its processor seconds, and those of the children it has reaped."""

    parent: int
    own: float
    reaped: float


def parse_stat(text: str) -> ProcessStat:
    """Parse the text of a ``/proc/PID/stat``."""
    fields = text.rpartition(")")[2].split()  # a program's name may hold spaces and brackets
    user, system, reaped_user, reaped_system = map(int, fields[11:15])
    return ProcessStat(
        parent=int(fields[1]),
        own=(user + system) / _TICKS,
        reaped=(reaped_user + reaped_system) / _TICKS,
    )


def sum_family_seconds(stats: Mapping[int, ProcessStat], root: int) -> float:
    """Return the processor seconds of a process and its children, including those that ended."""
    return sum(stats[pid].own + stats[pid].reaped for pid in _list_members(stats, root))


def list_family(root: int) -> list[int]:
    """Return the pids of a process and its children."""
    return _list_members(dict(_read_all()), root)


def _list_members(stats: Mapping[int, ProcessStat], root: int) -> list[int]:
    return [root, *(pid for pid, stat in stats.items() if stat.parent == root)]


def read_seconds(pid: int) -> float:
    """Return the processor seconds of one process so far."""
    return parse_stat((PROC / str(pid) / "stat").read_text()).own


def read_seconds_with_children(pid: int) -> float:
    """Return the processor seconds of a process and its children, including those that ended."""
    return sum_family_seconds(dict(_read_all()), pid)


def _read_all() -> Iterator[tuple[int, ProcessStat]]:
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                yield int(entry.name), parse_stat((entry / "stat").read_text())
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended during the loop


def parse_peak(text: str) -> float:
    """Return the peak of resident memory in the text of a ``/proc/PID/status``, in megabytes."""
    [kilobytes] = _PEAK.findall(text)
    return int(kilobytes) * 1024 / 1e6


def read_peak_megabytes(pid: int) -> float:
    """Return the peak of a process's resident memory since the last reset, in megabytes."""
    return parse_peak((PROC / str(pid) / "status").read_text())


def read_megabytes(pid: int) -> float:
    """Return a process's resident memory, in megabytes; 0 for one that has ended."""
    try:
        found = _RESIDENT.findall((PROC / str(pid) / "status").read_text())
    except FileNotFoundError:
        return 0.0
    return int(found[0]) * 1024 / 1e6 if found else 0.0


def reset_peak(pid: int) -> None:
    """Reset the peak of a process's resident memory."""
    (PROC / str(pid) / "clear_refs").write_text("5")  # 5 resets VmHWM: proc(5)
