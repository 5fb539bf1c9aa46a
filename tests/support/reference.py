"""The table of search parameters in docs/reference.md, made from the program's table.

``python -m tests.support.reference`` writes it.
"""

from __future__ import annotations

from pathlib import Path

from mig.search.parameters import PARAMETERS, SEARCH_TYPES, Parameter

PAGE = Path(__file__).parents[2] / "docs" / "reference.md"
HEAD = "| parameter | of | value | meaning |\n|---|---|---|---|\n"


def build_parameter_table() -> str:
    return HEAD + "".join(map(_build_line, PARAMETERS))


def _build_line(parameter: Parameter) -> str:
    searches = "" if parameter.types == SEARCH_TYPES else ", ".join(parameter.types)
    cells = (parameter.name, searches, parameter.values, parameter.meaning)
    return f"| {' | '.join(cells)} |\n".replace("|  |", "| |")


def replace_table(page: str) -> str:
    """Return the page with the current table."""
    before, head, after = page.partition(HEAD)
    assert head, f"{PAGE} has no table of parameters"
    end = after.index("\n\n") + 1
    return before + build_parameter_table() + after[end:]


def main() -> None:
    """Write the table."""
    PAGE.write_text(replace_table(PAGE.read_text()))


if __name__ == "__main__":
    main()
