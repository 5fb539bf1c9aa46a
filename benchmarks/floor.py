"""The floors below everything that is measured, each taken right before it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from benchmarks.child_processes import PIPES, ChildProcesses

ALL_RESULTS: Final = "select results from commands"
NEWEST_COMMANDS: Final = (
    "select id, actionid, agentid, status, starttime, finishtime, results from commands"
    " order by starttime desc, id desc limit {limit}"
)


def time_copy(
    children: ChildProcesses, psql: Path, dsn: str, query: str, *, times: int = 1
) -> float:
    """Seconds that PostgreSQL and psql need to hand over a query's rows, *times* at once."""
    command = [psql, "-qX", "-d", dsn, "-c", rf"\copy ({query}) to /dev/null"]
    began = time.perf_counter()
    running = [children.start(command, **PIPES) for _ in range(times)]
    for child in running:
        children.wait(child)
    return time.perf_counter() - began
