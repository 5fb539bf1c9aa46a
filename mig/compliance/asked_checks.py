"""The names of the checks that an action asks for, also when no agent has answered."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

_FILE: Final = "file"
_FILECHECKER: Final = "filechecker"


class AskedChecks(NamedTuple):
    """The names of an action's checks.

    ``names`` are those that every complete result has. ``modules`` are the modules of operations
    whose checks are known from results alone.
    """

    names: frozenset[str]
    modules: frozenset[str]

    def find_missing(self, answered: Iterable[str]) -> frozenset[str]:
        """Return the names of the checks that a command has not answered.

        :param answered: the names of those that it has.
        """
        answered = frozenset(answered)
        missing = self.names - answered
        return missing if answered else missing | self.modules


def list_asked_checks(modules: Iterable[tuple[str, str]]) -> AskedChecks:
    """Return the names of the checks of an action's operations.

    They are the labels of the modules ``file`` and ``filechecker``, and the module's name
    otherwise.

    :param modules: module and parameters of each operation, as
        :func:`mig.compliance.definition.read_modules` returns them.
    """
    names: set[str] = set()  # without U+0000, which no answer has (docs/decisions/0015)
    unlabelled: set[str] = set()
    for module, parameters in modules:
        if module not in (_FILE, _FILECHECKER):
            names.add(module)
            continue
        labels = {
            label.replace("\0", "\ufffd") for label in _list_labels(module, json.loads(parameters))
        }
        names |= labels
        if not labels:
            unlabelled.add(module)
    return AskedChecks(frozenset(names), frozenset(unlabelled))


def _list_labels(module: str, parameters: object) -> Iterator[str]:
    if module == _FILE:
        yield from _get_members(_get_members(parameters).get("searches"))
        return
    for methods in _get_members(parameters).values():  # by path
        for names in _get_members(methods).values():
            yield from _get_members(names)


def _get_members(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}
