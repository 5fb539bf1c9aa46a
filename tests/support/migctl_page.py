"""The table of options in docs/migctl.md, made from the client's table of filters.

``python -m tests.support.migctl_page`` writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mig.client.filters import NOUNS, Filter, describe_filters

PAGE = Path(__file__).parents[2] / "docs" / "migctl.md"
HEAD = "| option | of | meaning |\n|---|---|---|\n"


def build_option_table() -> str:
    return HEAD + "".join(
        f"| {_list_options(name, type_)} | {_list_searches(filter_)} | {filter_.meaning} |\n"
        for name, (type_, filter_) in describe_filters().items()
    ).replace("|  |", "| |")


def _list_options(name: str, type_: object) -> str:
    if type_ is bool:
        return f"`--{name}`, `--no-{name}`"
    return f"`--{name} NAME=PATTERN`" if type_ == Mapping[str, str] else f"`--{name}`"


def _list_searches(filter_: Filter) -> str:
    if filter_.is_of_reports:
        return "compliance"
    return "" if filter_.nouns == NOUNS else ", ".join(f"{noun}s" for noun in filter_.nouns)


def replace_table(page: str) -> str:
    """Return the page with the current table."""
    before, head, after = page.partition(HEAD)
    assert head, f"{PAGE} has no table of options"
    return before + build_option_table() + after[after.index("\nOptions of") :]


def main() -> None:
    """Write the table."""
    PAGE.write_text(replace_table(PAGE.read_text()))


if __name__ == "__main__":
    main()
