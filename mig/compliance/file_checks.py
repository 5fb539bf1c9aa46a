"""The checks in results of the module ``file``, each made once."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Final, Generic

import msgspec
from msgspec import Raw

from mig.compliance import definition
from mig.compliance.check_maker import Check, CheckMaker
from mig.errors import UnreadableError
from mig.limits import Limits


# gc=False: these structs are part of no cycle, and there are many of them for each page
class FileHit(msgspec.Struct, gc=False):
    """A file that a search found; the name is empty when it found none."""

    file: str = ""
    search: Raw = Raw("null")


FileElements = dict[str, list[FileHit]]


class FileResult(msgspec.Struct, gc=False):
    """A result of the module ``file``: for each label what its search found."""

    elements: FileElements | None = None


class _SearchFields(msgspec.Struct):
    paths: list[str] | None = None
    names: list[str] | None = None
    sizes: list[str] | None = None
    modes: list[str] | None = None
    mtimes: list[str] | None = None
    contents: list[str] | None = None
    md5: list[str] | None = None
    sha1: list[str] | None = None
    sha2: list[str] | None = None
    sha3: list[str] | None = None


_decode_search: Final = msgspec.json.Decoder(_SearchFields | None).decode


class _Search(Generic[Check]):
    """A search under its label, which makes its checks."""

    def __init__(self, make_check: CheckMaker[Check], label: str, text: bytes) -> None:
        search = _decode_search(text) or _SearchFields()
        tests = " and ".join(
            f"{name}='{value}'"
            for name, member in definition.SEARCH_FILTERS
            for value in getattr(search, member) or ()
        )
        self._paths = ", ".join(search.paths or ())
        self._make_missing = make_check(label, "file", tests, False)
        self._make_found = make_check(label, "file", tests, True)

    def make_check(self, file: str) -> Check:
        """Return the check of a search that found ``file``, or nothing when it is empty.

        :raises UnreadableError: when the location contains U+0000.
        """
        location = file or self._paths
        if "\0" in location:  # tested here, since a call would cost more than the test
            definition.refuse_nul(location)
        return self._make_found(location) if file else self._make_missing(location)


@dataclass(slots=True)
class _Layout(Generic[Check]):
    """What nearly all results of an operation have in common: labels, and a search for each.

    ``labels`` and the searches' ``texts`` are joined by U+0000, which no label that can be read and
    no JSON contains. For each label, ``files`` has the last file that was found, and ``found`` its
    check.
    """

    labels: str
    texts: bytes
    searches: list[_Search[Check]]
    missing: list[Check]
    files: list[str]
    found: list[Check]


class FileChecks(Generic[Check]):
    """Makes the checks in results of the module ``file`` (docs/decisions/0052)."""

    def __init__(self, make_check: CheckMaker[Check], limits: Limits) -> None:
        self._make_check = make_check
        self._max_checks = limits.cached_checks
        self._max_key_bytes = limits.cached_check_bytes
        self._searches: dict[tuple[str, bytes], _Search[Check]] = {}
        self._layouts: dict[object, _Layout[Check]] = {}
        self._laid_out = 0

    def read(self, operation: object, result: FileResult) -> list[Check]:
        """Return the checks of a result, in its order.

        :param operation: the same object for all results of one operation of an action.
        :raises UnreadableError: when a text contains U+0000.
        """
        elements = result.elements or {}
        try:
            hits = [hit for [hit] in elements.values()]
        except ValueError:  # several files for a label
            return self._read_any(elements)
        # Wholes are compared and copied, in C: where actions alternate, a layout is in no cache of
        # the processor, which then waits for many parts of it at once.
        labels, texts = "\0".join(elements), b"\0".join([hit.search for hit in hits])
        layout = self._layouts.get(operation)
        if layout is None or layout.texts != texts or layout.labels != labels:
            layout = self._learn_layout(elements, labels, texts)
            if layout is None:
                return self._read_any(elements)
            self._layouts[operation] = layout
        known_files, missing = layout.files, layout.missing
        checks = layout.found.copy()
        for n, hit in enumerate(hits):
            file = hit.file
            if file != known_files[n]:
                checks[n] = self._make_found(layout, n, file) if file else missing[n]
        return checks

    def _make_found(self, layout: _Layout[Check], n: int, file: str) -> Check:
        check = layout.searches[n].make_check(file)
        if len(file) <= self._max_key_bytes:
            # the first file of a label is often that of others: one string for all remains cached
            layout.files[n] = file if layout.files[n] else sys.intern(file)
            layout.found[n] = check
        return check

    def _read_any(self, elements: FileElements) -> list[Check]:
        checks: list[Check] = []
        for label, hits in elements.items():
            search, text = None, None
            for hit in hits:
                if search is None or text != hit.search:
                    search, text = self._find_search(label, hit.search), hit.search
                checks.append(search.make_check(hit.file))
        return checks

    def _learn_layout(
        self, elements: FileElements, labels: str, texts: bytes
    ) -> _Layout[Check] | None:
        """Return the layout of a result with one file for each label, unless it is unusual."""
        count = len(elements)
        if count > self._max_checks or len(labels) + len(texts) > count * self._max_key_bytes:
            return None
        searches = [self._find_search(label, hit.search) for label, [hit] in elements.items()]
        try:
            missing = [search.make_check("") for search in searches]
        except UnreadableError:  # of a path, which matters only where no file was found
            return None
        self._laid_out += count
        if self._laid_out > self._max_checks:
            self._layouts.clear()
            self._laid_out = count
        return _Layout(labels, texts, searches, missing, files=[""] * count, found=missing.copy())

    def _find_search(self, label: str, text: Raw) -> _Search[Check]:
        key = (label, bytes(text))
        search = self._searches.get(key)
        if search is None:
            search = _Search(self._make_check, *key)
            if len(label) + len(key[1]) <= self._max_key_bytes:
                if len(self._searches) >= self._max_checks:
                    self._searches.clear()
                self._searches[key] = search
        return search
