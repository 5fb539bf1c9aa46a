"""The checks in results of the module ``filechecker``, each made once."""

from __future__ import annotations

from typing import Generic

import msgspec

from mig.compliance import definition
from mig.compliance.check_maker import Check, CheckMaker
from mig.limits import Limits


# gc=False: these structs are part of no cycle, and there are many of them for each page
class MatchCounts(msgspec.Struct, gc=False):
    """How many matches a test had."""

    matchcount: float | None = None


_CountsByValue = dict[str, MatchCounts | None]


class FilecheckerResult(msgspec.Struct, gc=False):
    """A result of the module ``filechecker``: counts by path, method, name and value."""

    elements: dict[str, dict[str, dict[str, _CountsByValue | None] | None] | None] | None = None


class FilecheckerChecks(Generic[Check]):
    """Makes the checks in results of the module ``filechecker``, each once."""

    def __init__(self, make_check: CheckMaker[Check], limits: Limits) -> None:
        self._make_check = make_check
        self._max_checks = limits.cached_checks
        self._max_key_bytes = limits.cached_check_bytes
        self._checks: dict[tuple[str, str, str, str, bool], Check] = {}

    def read(self, result: FilecheckerResult) -> list[Check]:
        """Return the checks of a result, in its order.

        :raises UnreadableError: when a text contains U+0000.
        """
        find_check = self._checks.get
        return [
            find_check(
                key := (
                    path,
                    method,
                    name,
                    value,
                    counts is not None and (counts.matchcount or 0) > 0,
                )
            )
            or self._add_check(key)
            for path, methods in (result.elements or {}).items()
            for method, names in (methods or {}).items()
            for name, values in (names or {}).items()
            for value, counts in (values or {}).items()
        ]

    def _add_check(self, key: tuple[str, str, str, str, bool]) -> Check:
        path, method, name, value, complies = key
        check = self._make_check(name, method, value, complies)(definition.refuse_nul(path))
        if len(path) + len(name) + len(value) <= self._max_key_bytes:
            if len(self._checks) >= self._max_checks:
                self._checks.clear()
            self._checks[key] = check
        return check
