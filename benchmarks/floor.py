"""The floors of reports and large searches: the time that psql takes to copy the same rows."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from benchmarks.child_processes import PIPES, ChildProcesses

ALL_RESULTS: Final = "select results from commands"
NEWEST_COMMANDS: Final = (  # on one line: it becomes part of a \copy, which ends with its line
    "select id, actionid, agentid, status, starttime, finishtime, results from commands"
    " order by starttime desc, id desc limit {limit}"
)


def time_copy(
    children: ChildProcesses, psql: Path, dsn: str, query: str, *, times: int = 1
) -> float:
    """Measure the seconds in which psql copies a query's rows, ``times`` copies at once."""
    command = [psql, "-qX", "-d", dsn, "-c", rf"\copy ({query}) to /dev/null"]
    start = time.perf_counter()
    running = [children.start(command, **PIPES) for _ in range(times)]
    for child in running:
        children.wait(child)
    return time.perf_counter() - start
