"""The fast encoder of compliance items, equal to :mod:`mig.compliance.definition`.

Parts that many items share are encoded once: those of a check by label, file and raw text of the
search (docs/decisions/0016), those of an action or agent by id. The items of a command are then one
join. Results of an unusual shape go through the readable definition, which gives the reason when it
refuses them (docs/decisions/0014).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Raw

from mig.compliance import definition
from mig.errors import UnreadableError
from mig.formats.format import ActionFields, Format
from mig.hypermedia.urls import Urls
from mig.limits import Limits
from mig.model.cache import RecordCache
from mig.model.command import (
    COMMAND_RESULTS,
    ResultsRow,
    count_complete_rows,
    load_omitted_results,
    measure_results,
    reject_omitted_results,
)
from mig.model.record import UnreadableRecord, check_numeric_id
from mig.model.row import Columns, id_sql
from mig.model.statement import QueryFunction, Statement
from mig.values import format_time

MAX_CACHED_ACTIONS: Final = 1_000
MAX_CACHED_AGENTS: Final = 20_000


class _ActionRow(NamedTuple):
    id: Annotated[str, id_sql("id")]
    name: Annotated[str, "name"]
    description: Annotated[str | None, "description::text"]
    threat: Annotated[str | None, "threat::text"]
    operations: Annotated[str | None, "operations::text"]


class _AgentRow(NamedTuple):
    id: Annotated[str, id_sql("id")]
    name: Annotated[str, "name"]


_ACTION = Columns(_ActionRow)
_AGENT = Columns(_AgentRow)
_ACTIONS = Statement(
    f"""
select {_ACTION.sql}
from actions
where id = any(%s::numeric[])
""",
    _ACTION,
)
_AGENTS = Statement(
    f"""
select {_AGENT.sql}
from agents
where id = any(%s::numeric[])
""",
    _AGENT,
)


# gc=False: these structs are part of no cycle, and there are many of them for each page
class _FileHit(msgspec.Struct, gc=False):
    file: str = ""
    search: Raw = Raw("null")


class _FileResult(msgspec.Struct, gc=False):
    elements: dict[str, list[_FileHit]] | None = None


class _MatchCounts(msgspec.Struct, gc=False):
    matchcount: float | None = None


_CountsByValue = dict[str, _MatchCounts | None]


class _FilecheckerResult(msgspec.Struct, gc=False):
    elements: dict[str, dict[str, dict[str, _CountsByValue | None] | None] | None] | None = None


class _OtherResult(msgspec.Struct, gc=False):
    foundanything: bool | None = None


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


_decode_search = msgspec.json.Decoder(_SearchFields | None).decode
_DecodeResults = Callable[[str], list[Any] | None]
_decode_raw_results: _DecodeResults = msgspec.json.Decoder(list[Raw] | None).decode


class _ModuleDecoder:
    """The decoders of a module: ``decode_result`` one result, ``decode_results`` a command's."""

    def __init__(self, shape: Any) -> None:
        self.decode_result: Callable[[Raw], Any] = msgspec.json.Decoder(shape).decode
        self.decode_results: _DecodeResults = msgspec.json.Decoder(list[shape] | None).decode


_OTHER_DECODER = _ModuleDecoder(_OtherResult)
_MODULE_DECODERS = {
    "file": _ModuleDecoder(_FileResult),
    "filechecker": _ModuleDecoder(_FilecheckerResult),
}


class _ActionParts:
    """The parts that all items of an action share."""

    def __init__(self, format_: Format, row: _ActionRow) -> None:
        self.row = row
        self.modules = definition.read_modules(row.operations)
        self._decoders = [
            _MODULE_DECODERS.get(module, _OTHER_DECODER) for module, _ in self.modules
        ]
        self._decode = (
            self._decoders[0].decode_results if len({*self._decoders}) == 1 else _decode_raw_results
        )
        policy, ref = definition.read_policy_and_ref(row.description, row.threat)
        self.encoded = format_.encode_action_part(
            # a check's description is its action's name
            ActionFields(policy=policy, ref=ref, description=row.name)
        )
        self.other_checks = [
            {
                found: _make_check_encoder(format_, module, module, parameters, found)("")
                for found in (False, True)
            }
            for module, parameters in self.modules
        ]

    def decode_results(self, stored: str) -> list[Any]:
        """Return the results of a command, each in the shape of its operation's module.

        :raises _UnusualShapeError: when there are more results than operations.
        :raises msgspec.MsgspecError: when a result has another shape.
        """
        results = self._decode(stored) or []
        if len(results) > len(self.modules):
            raise _UnusualShapeError
        if self._decode is _decode_raw_results:
            return [
                decoder.decode_result(raw)
                for decoder, raw in zip(self._decoders, results, strict=False)
            ]
        return results


class _AgentParts:
    """The parts that all items of an agent share."""

    def __init__(self, format_: Format, row: _AgentRow) -> None:
        self.name = row.name
        self.target = definition.build_target(row.name)
        self.encoded = format_.encode_agent_part(self.target)


class _FileSearch:
    """The checks of a search of the module ``file``, by the file that it found ("" for none)."""

    def __init__(self, format_: Format, label: str, raw: bytes) -> None:
        self.raw = Raw(raw)
        self.checks: dict[str, bytes] = {}
        search = _decode_search(raw) or _SearchFields()
        tests = " and ".join(
            f"{name}='{value}'"
            for name, member in definition.SEARCH_FILTERS
            for value in getattr(search, member) or ()
        )
        self._paths = ", ".join(search.paths or ())
        self._encode_missing = _make_check_encoder(format_, label, "file", tests, False)
        self.encode_found = _make_check_encoder(format_, label, "file", tests, True)

    def encode_missing(self) -> bytes:
        """Return the check of a search that found no file.

        :raises UnreadableError: when a path of the search contains U+0000.
        """
        return self._encode_missing(definition.refuse_nul(self._paths))


def _make_check_encoder(
    format_: Format, name: str, type_: str, value: str, compliance: bool
) -> Callable[[str], bytes]:
    """Return a function that encodes a check with its location.

    :raises UnreadableError: when a text contains U+0000.
    """
    for text in (name, type_, value):
        definition.refuse_nul(text)
    return format_.make_check_encoder(name=name, type_=type_, value=value, compliance=compliance)


class ComplianceEncoder:
    """Encodes the rows of commands as compliance items, in the format of an answer."""

    columns = COMMAND_RESULTS

    def __init__(self, format_: Format, urls: Urls, limits: Limits) -> None:
        self._format = format_
        self._urls = urls
        self._limits = limits
        self._max_checks = limits.cached_checks
        self._max_key_bytes = limits.cached_check_bytes
        self._link_prefix = urls.for_command("")
        self.separator = format_.separator
        self._actions = RecordCache(
            _ACTIONS, partial(_ActionParts, format_), bound=MAX_CACHED_ACTIONS
        )
        self._agents = RecordCache(_AGENTS, partial(_AgentParts, format_), bound=MAX_CACHED_AGENTS)
        self._file_searches: dict[tuple[str, bytes], _FileSearch] = {}
        self._last_searches: dict[str, _FileSearch] = {}
        self._cached_files = 0
        self._filechecker_checks: dict[tuple[str, str, str, str, bool], bytes] = {}

    async def load_related(self, query: QueryFunction, rows: Sequence[ResultsRow]) -> None:
        """Load the actions and agents that ``rows`` belong to."""
        await self._actions.load(query, (row.actionid for row in rows))
        await self._agents.load(query, (row.agentid for row in rows))

    def weigh_rows(self, rows: Sequence[ResultsRow]) -> int:
        """Return how many characters all results have."""
        return measure_results(rows)

    def count_complete(self, rows: Sequence[ResultsRow]) -> int:
        """Return how many rows precede the first one whose results were left out."""
        return count_complete_rows(rows)

    async def complete_row(self, query: QueryFunction, row: ResultsRow) -> ResultsRow:
        """Return the row with its results, unless they are too large."""
        return await load_omitted_results(query, row, max_bytes=self._limits.result_bytes)

    def encode_row(self, row: ResultsRow) -> bytes:
        """Return the items of a command with separators; empty when there are none.

        For a command that cannot be read, return one item with the reason.
        """
        agent = None
        try:
            agent = self._agents.get(row.agentid)
            if agent is None:
                raise UnreadableError("its agent is not in the database")
            action = self._actions.get(row.actionid)
            if action is None:
                raise UnreadableError("its action is not in the database")
            link = self._link_prefix + check_numeric_id(row.id)
            if row.omitted_bytes is not None:
                reject_omitted_results(row.omitted_bytes, self._limits.result_bytes)
            timestamp = format_time(row.finishtime)
            try:
                checks = self._encode_checks(action, row.results)
            except (msgspec.MsgspecError, RecursionError, _UnusualShapeError):
                return self._encode_slowly(link, action, agent, row)
        except UnreadableError as reason:
            target = agent.target if agent else ""
            return self._format.encode_record(
                UnreadableRecord("command", row.id, str(reason), target)
            )
        if not checks:
            return b""
        head, tail = self._format.encode_command_parts(
            link, agent.encoded, action.encoded, timestamp
        )
        # one join makes all items: the glue between two checks ends one item and begins the next
        checks[0] = head + checks[0]
        checks[-1] += tail
        return (tail + self.separator + head).join(checks)

    def _encode_slowly(
        self, link: str, action: _ActionParts, agent: _AgentParts, row: ResultsRow
    ) -> bytes:
        items = definition.build_compliance_items(
            link=link,
            agent_name=agent.name,
            action_name=action.row.name,
            description=action.row.description,
            threat=action.row.threat,
            operations=action.row.operations,
            finishtime=row.finishtime,
            results=row.results,
        )
        return self.separator.join(map(self._format.encode_record, items))

    def _encode_checks(self, action: _ActionParts, results: str | None) -> list[bytes]:
        checks: list[bytes] = []
        if results is None:
            return checks
        for index, result in enumerate(action.decode_results(results)):
            if type(result) is _FileResult:
                self._add_file_checks(result, checks)
            elif type(result) is _FilecheckerResult:
                self._add_filechecker_checks(result, checks)
            else:
                checks.append(action.other_checks[index][bool(result.foundanything)])
        return checks

    # The loop of large reports: local names, and no call for a check that is cached. A search is
    # compared with the last one of its label, which is cheaper than a dictionary's key of its text.
    def _add_file_checks(self, result: _FileResult, checks: list[bytes]) -> None:
        last_searches = self._last_searches
        append = checks.append
        for label, hits in (result.elements or {}).items():
            search = last_searches.get(label)
            for hit in hits:
                if search is None or search.raw != hit.search:
                    search = self._find_file_search(label, hit.search)
                append(search.checks.get(hit.file) or self._encode_file_check(search, hit.file))

    def _find_file_search(self, label: str, raw: Raw) -> _FileSearch:
        key = (label, bytes(raw))
        search = self._file_searches.get(key) or _FileSearch(self._format, *key)
        if len(label) + len(key[1]) <= self._max_key_bytes:
            if len(self._file_searches) >= self._max_checks:
                self._file_searches.clear()
                self._last_searches.clear()
            self._file_searches[key] = self._last_searches[label] = search
        return search

    def _encode_file_check(self, search: _FileSearch, file: str) -> bytes:
        if self._cached_files >= self._max_checks:
            self._cached_files = 0
            # this search may be too long to be cached itself
            for each in (search, *self._file_searches.values()):
                each.checks.clear()
        if "\0" in file:  # tested here, since a call would cost more than the test
            definition.refuse_nul(file)
        check = search.encode_found(file) if file else search.encode_missing()
        if len(file) <= self._max_key_bytes:
            search.checks[file] = check
            self._cached_files += 1
        return check

    def _add_filechecker_checks(self, result: _FilecheckerResult, checks: list[bytes]) -> None:
        cached_checks = self._filechecker_checks
        for path, methods in (result.elements or {}).items():
            for method, names in (methods or {}).items():
                for name, values in (names or {}).items():
                    for value, counts in (values or {}).items():
                        complies = counts is not None and (counts.matchcount or 0) > 0
                        key = (path, method, name, value, complies)
                        check = cached_checks.get(key)
                        if check is None:
                            encode_check = _make_check_encoder(
                                self._format, name, method, value, complies
                            )
                            check = encode_check(definition.refuse_nul(path))
                            if len(path) + len(name) + len(value) <= self._max_key_bytes:
                                self._cache_check(key, check)
                        checks.append(check)

    def _cache_check(self, key: tuple[str, str, str, str, bool], check: bytes) -> None:
        if len(self._filechecker_checks) >= self._max_checks:
            self._filechecker_checks.clear()
        self._filechecker_checks[key] = check


class _UnusualShapeError(Exception):
    """The results have a shape that only the readable definition handles."""
