"""The conditions on agents that investigators write: the target of an action, in SQL.

PostgreSQL runs a condition of a client, so it must pass two walls. This module is the first one: it
lets through what a condition needs, and refuses everything else by its position. The second one is
the role and the transaction in which it runs (:mod:`mig.database.restricted`). What is refused
here, and why, is in docs/decisions/0057.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Final

from mig.database.schema.declaration import READER_ROLE, load_schema
from mig.errors import InvalidInputError

MAX_TARGET_CHARACTERS: Final = 2048
"""The length of an action's target, too."""

MAX_SELECTS: Final = 2
"""PostgreSQL copies the expression of a subselect to each place that uses it, at every level."""

MAX_EXPONENT_DIGITS: Final = 3
"""``1e100000`` is short, but its text is not, and neither is a multiplication with it."""

FUNCTIONS: Final = frozenset(
    (
        *("lower", "upper", "length", "coalesce", "nullif", "now", "count", "min", "max"),
        *("substring", "split_part", "position", "to_timestamp", "date_trunc"),
        *("json_array_elements", "json_array_elements_text", "json_each", "json_each_text"),
        *("json_extract_path", "json_extract_path_text", "json_array_length", "json_typeof"),
        *("inet", "host", "network"),
    )
)
"""Functions without an effect, whose result is not much larger than their arguments."""

SIZED_TYPES: Final = frozenset({"numeric", "varchar"})
CALLABLE_NAMES: Final = (
    FUNCTIONS
    | SIZED_TYPES
    # what SQL itself writes before a bracket
    | {"and", "or", "not", "in", "any", "all", "some", "exists", "select", "from", "where"}
    | {"case", "when", "then", "else", "cast", "values"}
)
"""The names that may stand before an opening bracket, so that no other function can be called."""

TYPES: Final = SIZED_TYPES | frozenset(
    (
        *("text", "boolean", "bool", "smallint", "int2", "integer", "int", "int4", "bigint"),
        *("int8", "decimal", "real", "float4", "float", "float8", "double", "json", "jsonb"),
        *("date", "time", "timestamp", "timestamptz", "interval", "inet", "cidr", "uuid"),
    )
)
"""The types to which a value may be cast: in none of them it becomes much larger."""

LIST_TYPES: Final = frozenset({"text", "varchar"})
"""The types that may be followed by ``[]``."""

WORDS_BEFORE_TEXT: Final = frozenset(
    (
        *("and", "or", "not", "like", "ilike", "to", "escape", "between", "symmetric", "when"),
        *("then", "else", "case", "from", "for", "where", "on", "having", "select", "distinct"),
        *("by", "zone", "in"),
    )
)
"""The words before a string that do not make it a value of a type, as ``regclass '…'`` would."""

REFUSED_WORDS: Final = frozenset({"with", "recursive", "table"})
"""Recursion never ends, and ``table`` is another way to write a select."""

_TOKEN: Final = re.compile(
    r"""
    (?P<space>[ ]+)
    | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<quoted>"(?:[^"]|"")+"(?!"))
    | (?P<string>'(?:[^']|'')*'(?!'))
    | (?P<number>[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?(?P<exponent>[0-9]+))?)
    | (?P<cast>::)
    | (?P<operator>[-+*/<>=~!@\#%^&|?]+)
    | (?P<open>[(\[])
    | (?P<close>[)\]])
    | (?P<separator>[,.])
    """,
    re.VERBOSE,
)
_CONTROL_CHARACTER: Final = re.compile("[\x00-\x1f\x7f-\x9f]")
# numbers within json or alone: a cast would make as many digits of them. PostgreSQL 16 has 1_000.
_LARGE_NUMBER: Final = re.compile(
    rf"(?<![^\s\[\]{{}}(),:+-])[0-9_.]+[eE][+-]?[0-9_]{{{MAX_EXPONENT_DIGITS + 1},}}"
    r"(?![^\s\[\]{}(),:])"
)
_REFUSED_IN_OPERATORS: Final = ("--", "/*", "||")
"""Both kinds of comment, and what makes one text of two, which doubles it again and again."""

_REFUSED_OPERATORS: Final = frozenset({"^", "!", "!!", "|/"})
"""A power or a factorial of a few digits can have thousands, and PostgreSQL does not stop it."""

_SCALING_OPERATORS: Final = frozenset("*/%")
"""Operators that take long between two long numbers: the right one must be in the condition."""

_CLOSING: Final = {"(": ")", "[": "]"}


@dataclass(frozen=True, kw_only=True)
class _Token:
    """A token; ``position`` is that of its first character, counted from 1.

    ``word`` is a name without quotes as PostgreSQL reads it, else empty.
    """

    kind: str
    text: str
    position: int

    @property
    def word(self) -> str:
        return self.text.lower() if self.kind == "name" else ""

    @property
    def is_literal(self) -> bool:
        return self.kind in ("string", "number")


_END: Final = _Token(kind="end", text="", position=0)


@dataclass(kw_only=True)
class _Bracket:
    """An open bracket, with the word before it and the token after it.

    ``is_in_columns`` between a ``select`` of this bracket and its ``from``.
    """

    token: _Token
    word: str
    first: _Token
    is_select: bool = False
    is_in_columns: bool = False


def parse_target(text: str) -> str:
    """Return a condition on agents unchanged, if nothing but a condition can be in it.

    :raises InvalidInputError: for anything else, with the position in the condition.
    """
    if len(text) > MAX_TARGET_CHARACTERS:
        raise InvalidInputError(
            f"target must have at most {MAX_TARGET_CHARACTERS} characters", "target"
        )
    if found := _CONTROL_CHARACTER.search(text):
        raise _make_error(f"the control character U+{ord(found[0]):04X}", found.start() + 1)
    spaced = list(_split_tokens(text))
    _check_neighbours(spaced)
    tokens = [token for token in spaced if token.kind != "space"]
    _Checker().check_tokens(tokens)
    return text


def _make_error(what: str, position: int) -> InvalidInputError:
    return InvalidInputError(
        f"target must be a condition on agents in SQL; it cannot contain {what} (at character"
        f" {position})",
        "target",
    )


def _split_tokens(text: str) -> Iterator[_Token]:
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            what = "a quote that is not closed" if text[at] in "'\"" else repr(text[at])
            raise _make_error(what, at + 1)
        kind = "number" if match["number"] else match.lastgroup
        if len(match["exponent"] or "") > MAX_EXPONENT_DIGITS:
            raise _make_error("a number with so large an exponent", at + 1)
        if kind == "string" and (large := _LARGE_NUMBER.search(match[0].replace("'", " "))):
            raise _make_error("a number with so large an exponent", at + 1 + large.start())
        if kind == "operator":
            yield from _split_operator(match[0], at + 1)
        else:
            yield _Token(kind=kind, text=match[0], position=at + 1)
        at = match.end()


def _split_operator(text: str, position: int) -> Iterator[_Token]:
    """Yield an operator and the signs after it, which belong to it only as PostgreSQL says."""
    for refused in _REFUSED_IN_OPERATORS:
        if refused in text:
            raise _make_error(refused, position + text.index(refused))
    end = len(text)
    if not set(text) & set("~!@#%^&|?"):
        end = max(1, len(text.rstrip("+-")))
    for begin, part in ((0, text[:end]), *((end + n, c) for n, c in enumerate(text[end:]))):
        yield _Token(kind="operator", text=part, position=position + begin)


def _check_neighbours(tokens: Sequence[_Token]) -> None:
    """Refuse a string of another syntax, such as E'…' or U&'…', and a number such as 0x10."""
    words = ("name", "number", "string", "quoted")
    for before, token in pairwise(tokens):
        if before.kind in words and token.kind in words:
            raise _make_error(
                f"{before.text[-20:]}{token.text[:20]} without a space", token.position
            )
        if token.text == "&" and before.word == "u":
            raise _make_error("U& without a space", before.position)


class _Checker:
    """The checks of tokens by what is before and after them, and by the brackets around them."""

    def __init__(self) -> None:
        self._brackets: list[_Bracket] = []
        self._selects = 0

    def check_tokens(self, tokens: Sequence[_Token]) -> None:
        """Check all tokens.

        :raises InvalidInputError: for the first one that a condition does not need.
        """
        checks = {
            "name": self._check_name,
            "quoted": self._check_name,
            "string": self._check_string,
            "operator": self._check_operator,
            "open": self._check_opening,
            "close": self._check_closing,
            "separator": self._check_separator,
            "cast": self._check_cast,
        }
        for before, token, after in zip([_END, *tokens], tokens, [*tokens[1:], _END], strict=False):
            in_list = self._brackets and self._brackets[-1].token.text == "["
            if in_list and not (token.is_literal or token.text in (",", "]")):
                raise _make_error(
                    f"{token.text[:63]} in square brackets, only strings and numbers",
                    token.position,
                )
            if token.kind in checks:
                checks[token.kind](before, token, after)
        if self._brackets:
            raise _make_error("a bracket that is not closed", self._brackets[-1].token.position)

    def _check_name(self, before: _Token, token: _Token, after: _Token) -> None:
        name = token.word or token.text[1:-1]
        if name.startswith("pg_") or token.word in REFUSED_WORDS:
            raise _make_error(f"the name {name[:63]}", token.position)
        if after.text == "(" and (token.word not in CALLABLE_NAMES or before.text == "."):
            raise _make_error(f"the function {token.text[:63]}", token.position)
        # x.f is another way to write f(x)
        if before.text == "." and name not in list_columns():
            raise _make_error(f"{name[:63]} after a dot, only columns", token.position)
        if self._brackets:
            self._note_word(self._brackets[-1], before, token)
            if token.word == "as" and self._brackets[-1].word == "cast":
                self._check_type(after, token.position)
        if token.word == "select":
            self._selects += 1
            if self._selects > MAX_SELECTS:
                raise _make_error(f"more than {MAX_SELECTS} selects", token.position)

    def _note_word(self, bracket: _Bracket, before: _Token, token: _Token) -> None:
        if token.word == "select":
            bracket.is_select = bracket.is_in_columns = True
        elif token.word == "from" and before.word != "distinct":  # a is distinct from b
            bracket.is_in_columns = False

    def _check_string(self, before: _Token, token: _Token, after: _Token) -> None:
        is_typed = before.kind in ("name", "quoted") and before.word not in WORDS_BEFORE_TEXT
        if is_typed and before.word not in TYPES:
            raise _make_error(f"a string after {before.text[:63]}", token.position)

    def _check_cast(self, before: _Token, token: _Token, after: _Token) -> None:
        self._check_type(after, token.position)

    def _check_type(self, type_: _Token, position: int) -> None:
        if type_.word not in TYPES:
            raise _make_error(f"a cast to {type_.text[:63] or 'no type'}", position)

    def _check_operator(self, before: _Token, token: _Token, after: _Token) -> None:
        if token.text in _REFUSED_OPERATORS:
            raise _make_error(f"the operator {token.text}", token.position)
        if token.text not in _SCALING_OPERATORS or after.kind == "number":
            return
        bracket = self._brackets[-1] if self._brackets else None
        if token.text == "*" and bracket is not None:
            is_count = bracket.word == "count" and before is bracket.token and after.text == ")"
            is_any_row = bracket.word == "exists" and before.word == "select"
            if is_count or is_any_row:
                return
        raise _make_error(f"{token.text} before anything but a number", token.position)

    def _check_opening(self, before: _Token, token: _Token, after: _Token) -> None:
        is_list = token.text == "["
        if is_list and not (
            before.word == "array" or (before.word in LIST_TYPES and after.text == "]")
        ):
            raise _make_error(f"[ after {before.text[:63] or 'nothing'}", token.position)
        outer = self._brackets[-1] if self._brackets else None
        is_source = before.word == "from" or (before.text == "," and outer and outer.is_select)
        # (a join b) j: j is a row of all columns
        if is_source and after.word not in ("select", "values"):
            raise _make_error("a bracket without a select after from", token.position)
        self._brackets.append(_Bracket(token=token, word=before.word, first=after))

    def _check_closing(self, before: _Token, token: _Token, after: _Token) -> None:
        if not self._brackets or _CLOSING[self._brackets.pop().token.text] != token.text:
            raise _make_error(f"{token.text} without its opening bracket", token.position)

    def _check_separator(self, before: _Token, token: _Token, after: _Token) -> None:
        if token.text == ".":
            if not {before.kind, after.kind} <= {"name", "quoted"}:
                raise _make_error("a dot that is not between two names", token.position)
            return
        bracket = self._brackets[-1] if self._brackets else None
        # A row of several values can become a text in which each of them has been copied.
        if bracket is None or not (
            bracket.token.text == "["
            or (bracket.is_select and not bracket.is_in_columns)
            or (not bracket.is_select and bracket.first.word == "values")
            or (not bracket.is_select and bracket.word in FUNCTIONS | SIZED_TYPES | {"in"})
        ):
            raise _make_error("a row of several values", token.position)


@cache
def list_columns() -> frozenset[str]:
    """Return the columns that a condition may name after a dot.

    They are those of the tables that the role of conditions may read, and of ``json_each``.
    """
    schema = load_schema()
    columns = {table.name: frozenset(table.columns) for table in schema.tables}
    grants = [grant for grant in schema.grants if grant.role == READER_ROLE]
    named = [frozenset(grant.columns) or columns[grant.relation] for grant in grants]
    return frozenset({"key", "value"}).union(*named)
