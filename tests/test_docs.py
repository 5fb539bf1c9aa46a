"""What the documentation names is there."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.reference import PAGE, replace_tables

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def test_every_file_that_a_page_names_exists() -> None:
    named = {
        (page.relative_to(ROOT), path)
        for page in PAGES
        for path in re.findall(
            r"\b(?:mig|tests|benchmarks)/[a-z_/]+\.(?:py|sql)\b", page.read_text()
        )
    }
    assert named
    assert not [(page, path) for page, path in named if not (ROOT / path).exists()]


def test_every_relative_link_leads_to_a_file() -> None:
    broken = [
        (page.relative_to(ROOT), target)
        for page in PAGES
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert not broken


def make_anchor(heading: str) -> str:
    """Return the anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_every_link_to_a_section_leads_to_a_heading() -> None:
    broken = []
    for page in PAGES:
        for path, anchor in re.findall(r"\]\(([^)#:]*\.md)?#([^)]+)\)", page.read_text()):
            text = (page.parent / path).read_text() if path else page.read_text()
            if anchor not in map(make_anchor, re.findall(r"(?m)^#+ (.+)$", text)):
                broken.append((page.relative_to(ROOT), path, anchor))
    assert not broken


def test_the_reference_has_the_tables_of_the_program() -> None:
    page = PAGE.read_text()
    assert replace_tables(page) == page, "run `make reference`"
