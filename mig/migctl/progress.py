"""Bars on the terminal: on standard error, and nothing where that is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from mig.migctl.terminal import make_console
from mig.values import escape_unprintable

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

    from mig.client.records import Action, ComplianceItem

_BAR_WIDTH: Final = 30
_ITEMS_PER_UPDATE: Final = 500


def is_shown() -> bool:
    """Return whether bars are seen."""
    return sys.stderr.isatty()


@contextmanager
def show_action(name: str, agents: int) -> Iterator[Callable[[Action], None]]:
    """Show a bar of the agents that have answered, and return the function that moves it."""
    if not is_shown():
        yield lambda action: None
        return
    from rich.progress import MofNCompleteColumn, TextColumn, TimeElapsedColumn

    columns = (
        MofNCompleteColumn(),
        TextColumn("agents"),
        TextColumn("{task.fields[status]}"),
        TimeElapsedColumn(),
    )
    with _make_progress(*columns) as progress:
        task = progress.add_task(escape_unprintable(name), total=agents or None, status="")

        def move(action: Action) -> None:
            sent, done = (action.counters.get(counter, 0) for counter in ("sent", "done"))
            total = max(agents, sent) or None
            progress.update(task, completed=done, total=total, status=action.status)

        yield move


@contextmanager
def show_report(commands: int | None) -> Iterator[Callable[[ComplianceItem], None]]:
    """Show a bar of the commands of a report, and return the function that counts its items.

    :param commands: how many the report has, if that is known.
    """
    if not is_shown():
        yield lambda item: None
        return
    from rich.progress import MofNCompleteColumn, TextColumn, TimeRemainingColumn

    columns = (
        MofNCompleteColumn(),
        TextColumn("commands"),
        TextColumn("{task.fields[items]:,} items"),
        TextColumn("{task.fields[rate]:,.0f}/s"),
        TimeRemainingColumn(),
    )
    with _make_progress(*columns) as progress:
        task = progress.add_task("report", total=commands, items=0, rate=0.0)
        state = progress.tasks[0]
        items = commands_read = 0
        link = ""

        def update() -> None:
            elapsed = state.elapsed or 0.0
            rate = items / elapsed if elapsed else 0.0
            progress.update(task, completed=commands_read, items=items, rate=rate)

        def count(item: ComplianceItem) -> None:
            nonlocal items, commands_read, link
            items += 1
            if item.link != link:  # items of a command follow each other
                commands_read, link = commands_read + 1, item.link
            if items % _ITEMS_PER_UPDATE == 0:
                update()

        yield count
        update()


def _make_progress(*columns: ProgressColumn) -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=_BAR_WIDTH),
        *columns,
        console=make_console(on_stderr=True),
        transient=True,
    )
