"""Summaries of compliance: tables with bars, and the rate that a gate of CI asks for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mig.migctl.columns import Column
from mig.migctl.exits import CommandError
from mig.migctl.output import open_output
from mig.migctl.terminal import make_console, print_notice
from mig.values import escape_unprintable

if TYPE_CHECKING:
    from rich.text import Text

    from mig.client.records import ComplianceSummary


class Verdict(NamedTuple):
    """A verdict on an agent: its title, the member of the counts, and its colour."""

    title: str
    member: str
    style: str


VERDICTS: Final = (
    Verdict("pass", "passed", "green"),
    Verdict("fail", "failed", "red"),
    Verdict("unknown", "unknown", "yellow"),
    Verdict("pending", "pending", "yellow"),
    Verdict("stale", "stale", "yellow"),
    Verdict("not asked", "notasked", "bright_black"),
)
BAR_WIDTH: Final = 20


def write_summary(groups: Sequence[ComplianceSummary], format_name: str, path: Path | None) -> None:
    """Write a summary, of which the last group has the totals."""
    names = list(groups[0].group)
    if format_name == "table" and not path and sys.stdout.isatty():
        _print_bars(groups, names)
        return
    columns = _make_columns(names)
    with open_output(columns, lambda: _list_fields(names), format_name, path) as writer:
        for group in groups:
            writer.write(group)


def _print_bars(groups: Sequence[ComplianceSummary], names: Sequence[str]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in names:
        table.add_column(name, overflow="ellipsis", no_wrap=True)
    table.add_column("rate", justify="right", no_wrap=True)
    table.add_column("", width=BAR_WIDTH)
    for verdict in VERDICTS:
        table.add_column(verdict.title, justify="right", no_wrap=True)
    for group in groups:
        counts = [getattr(group.agents, verdict.member) for verdict in VERDICTS]
        table.add_row(
            *(Text(text) for text in _format_group(group, names)),
            format_rate(group),
            make_bar(counts),
            *(
                Text(str(count), verdict.style if count else "dim")
                for verdict, count in zip(VERDICTS, counts, strict=True)
            ),
            style="" if group.group else "bold",
        )
    make_console().print(table)


def make_bar(counts: Sequence[int]) -> Text:
    """Return a bar with a part for each verdict; one that has agents has a character at least."""
    from rich.text import Text

    ends = [0, *(fit_bar(counts))]
    bar = Text()
    for verdict, begin, end in zip(VERDICTS, ends, ends[1:], strict=False):
        bar.append("█" * (end - begin), verdict.style)
    return bar


def fit_bar(counts: Sequence[int]) -> list[int]:
    """Return where the part of each count ends in a bar: none is lost, however small."""
    total = sum(counts)
    if not total:
        return [0] * len(counts)
    widths = [max(1, BAR_WIDTH * count // total) if count else 0 for count in counts]
    widths[widths.index(max(widths))] += BAR_WIDTH - sum(widths)
    return list(accumulate(widths))


def check_rate(totals: ComplianceSummary, percent: float) -> None:
    """Check that enough agents in scope comply; those of whom that is not known do not.

    :param percent: the lowest rate that is enough.
    :raises CommandError: when fewer do, and when there are none.
    """
    passed, total = totals.agents.passed, totals.agents.total
    if not total:
        raise CommandError("no agent is in scope", "are the filters right?")
    text = f"{passed} of {total} agents in scope comply: {format_rate(totals)}"
    if passed * 100 < percent * total:
        raise CommandError(f"{text}, less than {percent:g} %")
    print_notice(text)


def format_rate(summary: ComplianceSummary) -> str:
    """Return the rate in percent, rounded down, so that 100 % is all; ``-`` without agents."""
    if not summary.agents.total:
        return "-"
    tenths = summary.agents.passed * 1000 // summary.agents.total
    return f"{tenths / 10:.1f} %"


def _format_group(summary: ComplianceSummary, names: Sequence[str]) -> list[str]:
    if not summary.group:
        return ["all", *[""] * (len(names) - 1)][: len(names)]
    return [escape_unprintable(summary.group.get(name) or "-") for name in names]


def _make_columns(names: Sequence[str]) -> list[Column]:
    """Return the columns of a summary that is grouped by ``names``."""

    def read_group(number: int) -> Callable[[Any], str]:
        return lambda summary: _format_group(summary, names)[number]

    def read_count(member: str) -> Callable[[Any], str]:
        return lambda summary: str(getattr(summary.agents, member))

    return [
        *(Column(name, read_group(number)) for number, name in enumerate(names)),
        Column("rate", format_rate),
        *(Column(verdict.title, read_count(verdict.member)) for verdict in VERDICTS),
        Column("agents", read_count("total")),
    ]


def _list_fields(names: Sequence[str]) -> dict[str, Callable[[Any], object]]:
    """Return the columns of CSV, named as in the service's own, and how each is read."""
    from mig.model.compliance import ComplianceSummary
    from mig.model.fields import list_fields

    def read_group(name: str) -> Callable[[Any], object]:
        return lambda summary: summary.group.get(name)

    groups = {f"group.{name}": read_group(name) for name in names}
    counts = {each.name: each.read for each in list_fields(ComplianceSummary)}
    return {**groups, **{name: read for name, read in counts.items() if name != "group"}}
