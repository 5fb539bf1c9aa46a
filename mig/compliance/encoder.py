"""The fast encoder of compliance items, equal to :mod:`mig.compliance.definition`.

Parts that many items share are encoded once: those of a check by all that it is made of
(docs/decisions/0016 and 0052), those of an action or agent by id. The items of a command are then
one join. Results of an unusual shape go through the readable definition, which gives the reason
when it refuses them (docs/decisions/0014).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Raw

from mig.compliance import definition
from mig.compliance.check_encoder import make_check_encoder
from mig.compliance.file_checks import FileChecks, FileResult
from mig.compliance.filechecker_checks import FilecheckerChecks, FilecheckerResult
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


# gc=False: it is part of no cycle
class _OtherResult(msgspec.Struct, gc=False):
    foundanything: bool | None = None


_DecodeResults = Callable[[str], list[Any] | None]
_decode_raw_results: _DecodeResults = msgspec.json.Decoder(list[Raw] | None).decode


class _ModuleDecoder:
    """The decoders of a module: ``decode_result`` one result, ``decode_results`` a command's."""

    def __init__(self, shape: Any) -> None:
        self.decode_result: Callable[[Raw], Any] = msgspec.json.Decoder(shape).decode
        self.decode_results: _DecodeResults = msgspec.json.Decoder(list[shape] | None).decode


_OTHER_DECODER = _ModuleDecoder(_OtherResult)
_MODULE_DECODERS = {
    "file": _ModuleDecoder(FileResult),
    "filechecker": _ModuleDecoder(FilecheckerResult),
}


class _Operation:
    """An operation of an action; ``checks`` are those of a module without checks of its own."""

    def __init__(self, format_: Format, module: str, parameters: str) -> None:
        self.decoder = _MODULE_DECODERS.get(module, _OTHER_DECODER)
        self.checks = {
            found: make_check_encoder(format_, module, module, parameters, found)("")
            for found in (False, True)
        }


class _ActionParts:
    """The parts that all items of an action share."""

    __slots__ = ("_decode", "encoded", "operations", "row")  # read in fewer steps: 0052

    def __init__(self, format_: Format, row: _ActionRow) -> None:
        self.row = row
        self.operations = [
            _Operation(format_, module, parameters)
            for module, parameters in definition.read_modules(row.operations)
        ]
        decoders = {operation.decoder for operation in self.operations}
        self._decode = decoders.pop().decode_results if len(decoders) == 1 else _decode_raw_results
        policy, ref = definition.read_policy_and_ref(row.description, row.threat)
        self.encoded = format_.encode_action_part(
            # a check's description is its action's name
            ActionFields(policy=policy, ref=ref, description=row.name)
        )

    def decode_results(self, stored: str) -> list[Any]:
        """Return the results of a command, each in the shape of its operation's module.

        :raises _UnusualShapeError: when there are more results than operations.
        :raises msgspec.MsgspecError: when a result has another shape.
        """
        results = self._decode(stored) or []
        if len(results) > len(self.operations):
            raise _UnusualShapeError
        if self._decode is _decode_raw_results:
            return [
                operation.decoder.decode_result(raw)
                for operation, raw in zip(self.operations, results, strict=False)
            ]
        return results


class _AgentParts:
    """The part that all items of an agent share."""

    __slots__ = ("encoded", "name")

    def __init__(self, format_: Format, row: _AgentRow) -> None:
        self.name = row.name
        self.encoded = format_.encode_agent_part(definition.build_target(row.name))


class ComplianceEncoder:
    """Encodes the rows of commands as compliance items, in the format of an answer."""

    columns = COMMAND_RESULTS

    def __init__(self, format_: Format, urls: Urls, limits: Limits) -> None:
        self._format = format_
        self._urls = urls
        self._limits = limits
        self._link_prefix = urls.for_command("")
        self.separator = format_.separator
        self._actions = RecordCache(
            _ACTIONS, partial(_ActionParts, format_), bound=MAX_CACHED_ACTIONS
        )
        self._agents = RecordCache(_AGENTS, partial(_AgentParts, format_), bound=MAX_CACHED_AGENTS)
        self._file_checks = FileChecks(format_, limits)
        self._filechecker_checks = FilecheckerChecks(format_, limits)

    async def load_related(self, query: QueryFunction, rows: Sequence[ResultsRow]) -> None:
        """Load the actions and agents that ``rows`` belong to."""
        await self._actions.load(query, [row.actionid for row in rows])
        await self._agents.load(query, [row.agentid for row in rows])

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
        # at once: to read each field of a named tuple by its name takes longer than to look it up
        command_id, actionid, agentid, _, finishtime, results, omitted_bytes = row
        agent = None
        try:
            agent = self._agents.get(agentid)
            if agent is None:
                raise UnreadableError("its agent is not in the database")
            action = self._actions.get(actionid)
            if action is None:
                raise UnreadableError("its action is not in the database")
            link = self._link_prefix + check_numeric_id(command_id)
            if omitted_bytes is not None:
                reject_omitted_results(omitted_bytes, self._limits.result_bytes)
            timestamp = format_time(finishtime)
            try:
                checks = self._encode_checks(action, results)
            except (msgspec.MsgspecError, RecursionError, _UnusualShapeError):
                return self._encode_slowly(link, action, agent, row)
        except UnreadableError as reason:
            target = definition.build_target(agent.name) if agent else ""
            return self._format.encode_record(
                UnreadableRecord("command", command_id, str(reason), target)
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
        decoded = action.decode_results(results)
        for operation, result in zip(action.operations, decoded, strict=False):
            if type(result) is FileResult:
                checks += self._file_checks.encode(operation, result)
            elif type(result) is FilecheckerResult:
                checks += self._filechecker_checks.encode(result)
            else:
                checks.append(operation.checks[bool(result.foundanything)])
        return checks


class _UnusualShapeError(Exception):
    """The results have a shape that only the readable definition handles."""
