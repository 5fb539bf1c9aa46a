"""``migctl search``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click

from mig.client.filters import NOUNS, Filters, Noun
from mig.migctl.configuration import Configuration
from mig.migctl.options import filter_options, output_options, service_options
from mig.migctl.terminal import print_notice

_PATTERN_HINT: Final = "a pattern is of the whole text: %web% also matches what has more around it"
_TIME_HINT: Final = "without --after, a search goes back seven days"
_TIMES: Final = frozenset(("after", "finishedafter", "finishedbefore", "target"))
"""The filters without which a search goes back seven days."""


@click.group()
def search() -> None:
    """Search for actions, commands, agents or investigators.

    A PATTERN is one of SQL: % matches any text and _ any character. An option with a PATTERN may be
    given several times, of which one must match. A TIME is an RFC 3339 date, or how long ago it
    was: -7d, -1d12h. All results are printed unless there is a --limit.
    """


def _make_command(noun: Noun) -> Callable[..., None]:
    @search.command(f"{noun}s", help=f"Search for {noun}s, newest first.")
    @filter_options(noun)
    @output_options
    @service_options
    def search_command(
        configuration: Configuration, filters: Filters, format_name: str, path: Path | None
    ) -> None:
        from mig.migctl.output import open_writer
        from mig.migctl.service import open_client

        with open_client(configuration) as client, open_writer(noun, format_name, path) as writer:
            is_empty = True
            for record in client.search(noun, filters):
                is_empty = False
                writer.write(record)
        if is_empty and sys.stderr.isatty():
            is_of_any_time = noun == "investigator" or not _TIMES.isdisjoint(filters)
            hint = _PATTERN_HINT if is_of_any_time else f"{_TIME_HINT}; {_PATTERN_HINT}"
            print_notice(f"no {noun}s were found", hint)

    return search_command


for each in NOUNS:
    _make_command(each)
