"""Patterns for items match as PostgreSQL's ILIKE does."""

from __future__ import annotations

from contextlib import closing

import psycopg2
from hypothesis import given
from hypothesis import strategies as st

from mig.compliance.ilike import compile_patterns
from tests.support.postgres import TestDatabase

characters = st.sampled_from("aAbB%_\\.*\néÉßẞİıΣςσΧÄ😀K")
texts = st.text(characters, max_size=8)
patterns = texts.filter(lambda text: (len(text) - len(text.rstrip("\\"))) % 2 == 0)
pairs = st.tuples(texts, patterns) | texts.map(
    lambda text: (text, text.swapcase().replace("\\", "\\\\").replace("a", "%"))
)


def test_a_pattern_matches_what_it_matches_in_postgresql(database: TestDatabase) -> None:
    with closing(psycopg2.connect(database.dsn)) as connection:
        cursor = connection.cursor()

        @given(st.lists(pairs, min_size=20, max_size=20))
        def check(tried: list[tuple[str, str]]) -> None:
            tried_texts, tried_patterns = map(list, zip(*tried, strict=True))
            cursor.execute(
                "select text ilike pattern from unnest(%s, %s) as tried (text, pattern)",
                (tried_texts, tried_patterns),
            )
            for (text, pattern), (matches,) in zip(tried, cursor.fetchall(), strict=True):
                assert compile_patterns([pattern])(text) == matches, (text, pattern)

        check()


def test_one_of_several_patterns_must_match() -> None:
    matches = compile_patterns(["a%", "%B"])
    assert [matches(text) for text in ("Ax", "xb", "x", "")] == [True, True, False, False]


def test_no_pattern_takes_longer_than_its_text_is_long() -> None:
    """One that tried all places of all parts would never end."""
    assert not compile_patterns(["%a_" * 7 + "%b"])("a" * 200_000)
