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
    """A verdict on an agent: its title, the member of the counts, and its colour and mark in bars.

    Bars can be read without colours, too.
    """

    title: str
    member: str
    style: str
    mark: str


VERDICTS: Final = (
    Verdict("pass", "passed", "green", "█"),
    Verdict("fail", "failed", "red", "▒"),
    Verdict("unknown", "unknown", "yellow", "░"),
    Verdict("pending", "pending", "yellow", "░"),
    Verdict("stale", "stale", "yellow", "░"),
    Verdict("not asked", "notasked", "bright_black", "·"),
)
ALWAYS_SHOWN: Final = ("passed", "failed")
BAR_WIDTH: Final = 20
MIN_BAR_WIDTH: Final = len(VERDICTS)
GAP: Final = 2


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
    """Print a summary; verdicts that no agent has are left out, and bars give way first."""
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    verdicts = [
        verdict
        for verdict in VERDICTS
        if verdict.member in ALWAYS_SHOWN
        or any(getattr(group.agents, verdict.member) for group in groups)
    ]
    columns = [*names, "rate", *(verdict.title for verdict in verdicts)]
    rows = [
        [
            *_format_group(group, names),
            format_rate(group),
            *(str(getattr(group.agents, verdict.member)) for verdict in verdicts),
        ]
        for group in groups
    ]
    widths = [max(map(cell_len, cells)) for cells in zip(columns, *rows, strict=True)]
    console = make_console()
    room = console.width - sum(widths) - GAP * (len(widths) + 1)
    bar_width = max(MIN_BAR_WIDTH, min(BAR_WIDTH, room))
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for name in names:
        table.add_column(name, overflow="ellipsis", no_wrap=True)
    for title, width in zip(columns[len(names) :], widths[len(names) :], strict=True):
        table.add_column(title, justify="right", min_width=width, no_wrap=True)
    table.add_column("", width=bar_width, min_width=bar_width)
    for group, row in zip(groups, rows, strict=True):
        table.add_row(*map(Text, row), make_bar(group, bar_width), style=_choose_style(group))
    console.print(table)


def _choose_style(group: ComplianceSummary) -> str:
    return "" if group.group else "bold"


def make_bar(summary: ComplianceSummary, width: int) -> Text:
    """Return a bar with a part for each verdict; one that has agents has a character at least."""
    from rich.text import Text

    ends = fit_bar([getattr(summary.agents, verdict.member) for verdict in VERDICTS], width)
    bar = Text()
    for verdict, begin, end in zip(VERDICTS, [0, *ends], ends, strict=False):
        bar.append(verdict.mark * (end - begin), verdict.style)
    return bar


def fit_bar(counts: Sequence[int], width: int) -> list[int]:
    """Return where the part of each count ends in a bar: none is lost, however small."""
    total = sum(counts)
    if not total:
        return [0] * len(counts)
    widths = [max(1, width * count // total) if count else 0 for count in counts]
    widths[widths.index(max(widths))] += width - sum(widths)
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
    from mig.model.compliance import make_summary_type
    from mig.model.fields import list_fields

    return {each.name: each.read for each in list_fields(make_summary_type(tuple(names)))}
