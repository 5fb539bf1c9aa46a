"""The fields of a record under flat names, such as ``check.test.value``, for rows of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final, NamedTuple

import msgspec

from mig.errors import InvalidInputError
from mig.model.record import Record
from mig.values import suggest_name

FIELDS_PARAMETER: Final = "fields"


class Field(NamedTuple):
    """A field: its flat name, a function that reads its value from a record, and its path.

    The path has the names of the member and of those around it, which may contain dots.
    """

    name: str
    read: Callable[[Any], object]
    path: tuple[str, ...]


@lru_cache(maxsize=256)
def list_fields(record_type: type[Record]) -> tuple[Field, ...]:
    """Return the fields of a kind of record, in its order.

    A member that is a struct counts as its members, and so does one of :attr:`Record.members`. Any
    other one is a field, also when its value is an array or an object. A command has the ids and
    names of its action and agent.
    """
    return tuple(
        Field(".".join(path), read, path)
        for path, read in _list_readers(record_type.flat or record_type)
    )


def _list_readers(
    shape: type[Record],
) -> Iterator[tuple[tuple[str, ...], Callable[[Any], object]]]:
    """Yield the path of names of each field, and the function that reads it."""
    for path, attribute in _list_paths(shape):
        read = attrgetter(attribute)
        if attribute not in shape.members:
            yield path, read
        for name in shape.members.get(attribute, ()):
            yield (*path, name), _make_member_reader(read, name)


def _make_member_reader(
    read: Callable[[Any], Mapping[str, object]], name: str
) -> Callable[[Any], object]:
    return lambda record: read(record).get(name)


def _list_paths(shape: type[msgspec.Struct]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the path of names, and that of attributes, of each field."""
    for field in msgspec.structs.fields(shape):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            for path, attribute in _list_paths(field.type):
                yield (field.encode_name, *path), f"{field.name}.{attribute}"
        else:
            yield (field.encode_name,), field.name


def select_names(available: Sequence[str], wanted: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names that a client wants, in the order of ``available``; ``None`` means all.

    ``policy`` selects ``policy.level`` and all others below it.

    :raises InvalidInputError: for a name that selects nothing; the message has all names.
    """
    if wanted is None:
        return tuple(available)
    selected: set[str] = set()
    for name in wanted:
        found = {each for each in available if each == name or each.startswith(f"{name}.")}
        if not found:
            hint = suggest_name(name, available, f"they are {', '.join(available)}")
            raise InvalidInputError(
                f"{FIELDS_PARAMETER} must be names of fields, not {name[:80]!r}; {hint}",
                FIELDS_PARAMETER,
            )
        selected |= found
    return tuple(each for each in available if each in selected)
