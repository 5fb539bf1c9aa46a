"""Compliance items as bytes, fast: equal to :mod:`mig.compliance.definition`, which defines them.

What is the same in many items is encoded once: the check by (label, file, raw text of the search),
what depends on the action or the agent by its id. A command's items are then one join. Results of
an unusual shape go through the readable definition, which also has the reason when it refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from mig.compliance import definition as items
from mig.errors import Unreadable
from mig.hypermedia.document import SEPARATOR, encode, unreadable_item
from mig.hypermedia.urls import Urls
from mig.model.command import RESULTS, check_size
from mig.model.row import Lookup, Row, Rows, RunQuery, whole_number
from mig.values import rfc3339

CHECKS_KEPT = 4_096
LONGEST_KEY = 4_096

_ACTIONS = (
    "select id::text, name, description::text, threat::text, operations::text"
    " from actions where id = any(%s::numeric[])"
)
_AGENTS = "select id::text, name from agents where id = any(%s::numeric[])"

_HEAD = b'{"href":"%b","data":[{"name":"compliance item","value":{"target":%b%b'
_TAIL = b',"link":"%b","timestamp":"%b","utctimestamp":"%b"}}]}'
"""What stands around the check in each item of a command."""

Key = TypeVar("Key")


class _Hit(msgspec.Struct, gc=False):
    file: str = ""
    search: Raw = Raw("null")


class _FileResult(msgspec.Struct, gc=False):
    elements: dict[str, list[_Hit]] | None = None


class _Counts(msgspec.Struct, gc=False):
    matchcount: float | None = None


_Values = dict[str, _Counts | None]


class _FilecheckerResult(msgspec.Struct, gc=False):
    elements: dict[str, dict[str, dict[str, _Values | None] | None] | None] | None = None


class _OtherResult(msgspec.Struct, gc=False):
    foundanything: bool | None = None


class _Search(msgspec.Struct):
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


_search = msgspec.json.Decoder(_Search | None).decode
_DecodeAll = Callable[[str], list[Any] | None]
_raw_results: _DecodeAll = msgspec.json.Decoder(list[Raw] | None).decode


class _Kind:
    """How the results of a module are decoded: ``one``, or ``all`` of a command."""

    def __init__(self, shape: Any) -> None:
        self.one: Callable[[Raw], Any] = msgspec.json.Decoder(shape).decode
        self.all: _DecodeAll = msgspec.json.Decoder(list[shape] | None).decode


_OTHER = _Kind(_OtherResult)
_KINDS = {"file": _Kind(_FileResult), "filechecker": _Kind(_FilecheckerResult)}


class _Action:
    """What the items of an action's commands share."""

    def __init__(self, row: Row) -> None:
        _, self.name, self.description, self.threat, self.operations = row
        self.modules = items.modules_of(self.operations)
        self._kinds = [_KINDS.get(module, _OTHER) for module, _ in self.modules]
        self._decode = self._kinds[0].all if len({*self._kinds}) == 1 else _raw_results
        policy, ref = items.policy_and_ref(self.description, self.threat)
        head = encode({"policy": policy, "check": {"ref": ref, "description": self.name}})
        self.head = b"," + head[1:-2] + b","
        self.others = [
            {found: _check(module, module, parameters, "", found) for found in (False, True)}
            for module, parameters in self.modules
        ]

    def results(self, stored: str) -> list[Any]:
        """The results of a command, each in the shape of its operation's module."""
        results = self._decode(stored) or []
        if len(results) > len(self.modules):
            raise _Unusual
        if self._decode is _raw_results:
            return [kind.one(raw) for kind, raw in zip(self._kinds, results, strict=False)]
        return results


class _Agent:
    def __init__(self, row: Row) -> None:
        self.name: str = row[1]
        self.target = encode(items.target(self.name))


class _FileSearch:
    """What a search of the module ``file`` checks, by the file that it found ("" for none)."""

    def __init__(self, label: str, raw: bytes) -> None:
        self.raw = Raw(raw)
        self.checks: dict[str, bytes] = {}
        search = _search(raw) or _Search()
        tests = " and ".join(
            f"{name}='{value}'"
            for name, member in items.SEARCH_FILTERS
            for value in getattr(search, member) or ()
        )
        self._none = (label, "file", tests, ", ".join(search.paths or ()), False)
        self._location = encode({"location": ""})[1:-3]
        found = _check(label, "file", tests, "", True)
        self._rest = found.removeprefix(self._location + b'""')

    def check(self, file: str) -> bytes:
        if not file:
            return _check(*self._none)
        return self._location + encode(items.without_nul(file)) + self._rest


def _check(name: str, type: str, value: str, location: str, compliance: bool) -> bytes:
    """The encoded members of an item from ``check.location`` to ``compliance``."""
    check = encode(items.check(name=name, type=type, value=value, location=location))
    return check[1:] + (b',"compliance":true' if compliance else b',"compliance":false')


def _keep(cache: dict[Key, Any], key: Key, value: Any) -> None:
    if len(cache) >= CHECKS_KEPT:
        cache.clear()
    cache[key] = value


class ComplianceItems:
    """Rows of commands to encoded compliance items."""

    columns = f"c.id::text, c.actionid::text, c.agentid::text, c.finishtime::text, {RESULTS}"

    def __init__(self, urls: Urls) -> None:
        self._urls = urls
        self._link = urls.command("").encode()
        self._actions = Lookup(_ACTIONS, _Action, bound=1_000)
        self._agents = Lookup(_AGENTS, _Agent, bound=20_000)
        self._file_searches: dict[tuple[str, bytes], _FileSearch] = {}
        self._last_searches: dict[str, _FileSearch] = {}
        self._files_kept = 0
        self._filechecker_checks: dict[tuple[str, str, str, str, bool], bytes] = {}

    async def prepare(self, query: RunQuery, rows: Rows) -> None:
        """Load the actions and agents that *rows* belong to."""
        await self._actions.load(query, (row[1] for row in rows))
        await self._agents.load(query, (row[2] for row in rows))

    def items(self, row: Row) -> bytes:
        """The items of one command, separated, b"" when there are none.

        A command that cannot be read becomes one item that says so.
        """
        id, actionid, agentid, finishtime, results, size = row[:6]
        agent = None
        try:
            agent = self._agents.get(agentid)
            if agent is None:
                raise Unreadable("its agent is not in the database")
            action = self._actions.get(actionid)
            if action is None:
                raise Unreadable("its action is not in the database")
            link = self._link + whole_number(id).encode()
            check_size(size)
            timestamp = rfc3339(finishtime).encode()
            try:
                checks = self._checks(action, results)
            except (msgspec.MsgspecError, RecursionError, _Unusual):
                return self._slowly(id, action, agent, finishtime, results)
        except Unreadable as reason:
            target = items.target(agent.name) if agent else ""
            return unreadable_item("command", self._urls.command(id), reason, target=target)
        if not checks:
            return b""
        head = _HEAD % (link, agent.target, action.head)
        tail = _TAIL % (link, timestamp, timestamp)
        checks[0] = head + checks[0]
        checks[-1] += tail
        return (tail + SEPARATOR + head).join(checks)

    def _slowly(
        self, id: str, action: _Action, agent: _Agent, finishtime: str | None, results: str | None
    ) -> bytes:
        link = self._urls.command(id)
        values = items.compliance_items(
            link=link,
            agent_name=agent.name,
            action_name=action.name,
            description=action.description,
            threat=action.threat,
            operations=action.operations,
            finishtime=finishtime,
            results=results,
        )
        return SEPARATOR.join(
            encode({"href": link, "data": [{"name": "compliance item", "value": value}]})
            for value in values
        )

    def _checks(self, action: _Action, results: str | None) -> list[bytes]:
        checks: list[bytes] = []
        if results is None:
            return checks
        for index, result in enumerate(action.results(results)):
            if type(result) is _FileResult:
                self._file(result, checks)
            elif type(result) is _FilecheckerResult:
                self._filechecker(result, checks)
            else:
                checks.append(action.others[index][bool(result.foundanything)])
        return checks

    def _file(self, result: _FileResult, checks: list[bytes]) -> None:
        last_searches = self._last_searches
        append = checks.append
        for label, hits in (result.elements or {}).items():
            search = last_searches.get(label)
            for hit in hits:
                if search is None or search.raw != hit.search:
                    search = self._file_search(label, hit.search)
                append(search.checks.get(hit.file) or self._file_check(search, hit.file))

    def _file_search(self, label: str, raw: Raw) -> _FileSearch:
        key = (label, bytes(raw))
        search = self._file_searches.get(key) or _FileSearch(*key)
        if len(label) + len(key[1]) <= LONGEST_KEY:
            if len(self._file_searches) >= CHECKS_KEPT:
                self._file_searches.clear()
                self._last_searches.clear()
            self._file_searches[key] = self._last_searches[label] = search
        return search

    def _file_check(self, search: _FileSearch, file: str) -> bytes:
        if self._files_kept >= CHECKS_KEPT:
            self._files_kept = 0
            for one in (search, *self._file_searches.values()):
                one.checks.clear()
        check = search.check(file)
        if len(file) <= LONGEST_KEY:
            search.checks[file] = check
            self._files_kept += 1
        return check

    def _filechecker(self, result: _FilecheckerResult, checks: list[bytes]) -> None:
        kept = self._filechecker_checks
        for path, methods in (result.elements or {}).items():
            for method, names in (methods or {}).items():
                for name, values in (names or {}).items():
                    for value, counts in (values or {}).items():
                        complies = counts is not None and (counts.matchcount or 0) > 0
                        key = (path, method, name, value, complies)
                        check = kept.get(key)
                        if check is None:
                            check = _check(name, method, value, path, complies)
                            if len(path) + len(name) + len(value) <= LONGEST_KEY:
                                _keep(kept, key, check)
                        checks.append(check)


class _Unusual(Exception):
    """The results are of a shape that the readable definition decides on."""
