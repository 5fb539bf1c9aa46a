"""The documentation has the limits of the program."""

from __future__ import annotations

from pathlib import Path

from mig.limits import describe_limits

TABLE = Path(__file__).parent.parent / "docs" / "limits.md"


def test_every_limit_is_in_the_documentation() -> None:
    lines = [line for line in TABLE.read_text().splitlines() if line.startswith("| ")][1:]
    documented = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert documented == [
        [name, f"{default:,}", meaning, key] for name, default, meaning, key in describe_limits()
    ]
