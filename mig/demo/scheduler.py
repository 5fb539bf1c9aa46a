"""The demo's scheduler and agents: they answer the actions that are posted to the demo.

The scheduler takes actions from the spool as a scheduler of 2014 does. Which step comes next is
only in the database and the spool's folders, so that another process can go on at any time:

    folder     status      next
    new        init        when it is valid: preparing, and the file moves
    inflight   preparing   one command for each agent of the target, and inflight
    inflight   inflight    the agents answer; after the last one: completed
    inflight   completed   the file moves to done

An action that has expired before it began, whose target is not a condition in SQL or that no agent
fulfils is invalid, and so is its file. The schedulers of MIG decide so, too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import msgspec
from twisted.logger import Logger

from mig.actions.submission import NEW_STATUS
from mig.database.database import Database
from mig.demo.machines import MACHINES_BY_AGENT, Machine
from mig.demo.outcomes import UNFINISHED, Outcome, choose_outcome, choose_recurring_outcome
from mig.demo.recurring import find_run, join_results
from mig.demo.results import Operation, make_results
from mig.errors import InvalidInputError
from mig.limits import Limits
from mig.model.row import Columns, id_sql, make_row_reader
from mig.model.statement import Statement, id_array, select_ids
from mig.reactor import WallClock
from mig.search.target import parse_target
from mig.search.targeted_agents import find_targeted_agents
from mig.values import generate_id, parse_id

MAX_OPERATIONS: Final = 64
"""The operations that the demo's agents answer; an action with more is invalid."""

TAKEN_AT_ONCE: Final = 20
"""The new actions that are taken before running ones go on."""

ANSWERS_AT_ONCE: Final = 50
"""The commands that one statement finishes: each may have 64 KiB of results."""

_CLIENT: Final = "the demo's scheduler"


class _SpooledAction(msgspec.Struct):
    """What the scheduler reads of an action's file."""

    id: int
    name: str
    target: str
    operations: list[msgspec.Raw]


class _ActionState(NamedTuple):
    """The state of an action, with its times in Unix seconds."""

    id: Annotated[str, id_sql("id")]
    status: Annotated[str | None, "status"]
    validfrom: Annotated[float, "extract(epoch from validfrom)::float8"]
    expireafter: Annotated[float, "extract(epoch from expireafter)::float8"]


_STATE = Columns(_ActionState)
_SELECT_STATES = Statement(
    f"select {_STATE.sql} from actions where id = any(%s::numeric[])", _STATE
)


class _UnfinishedCommand(NamedTuple):
    """A command without an answer, with its times in Unix seconds."""

    id: Annotated[str, id_sql("c.id")]
    action_id: Annotated[str, id_sql("c.actionid")]
    agent_id: Annotated[str, id_sql("c.agentid")]
    status: Annotated[str, "c.status"]
    started: Annotated[float, "extract(epoch from c.starttime)::float8"]
    expires: Annotated[float, "extract(epoch from a.expireafter)::float8"]


_UNFINISHED = Columns(_UnfinishedCommand)
_SELECT_RUNNING = select_ids(f"select {id_sql('id')} from actions where status = 'inflight'")
# With the ids the planner uses the index on commands of an action; with a join by the status of the
# action it reads the whole table, twice a second.
_SELECT_UNFINISHED = Statement(
    f"""
    select {_UNFINISHED.sql}
    from commands c
    join actions a on a.id = c.actionid
    where c.actionid = any(%s::numeric[]) and c.status = any(%s)
    order by c.id
    """,
    _UNFINISHED,
)


class _OperationsRow(NamedTuple):
    id: str
    operations: str


_SELECT_OPERATIONS = Statement(
    f"select {id_sql('id')}, operations::text from actions where id = any(%s::numeric[])",
    make_row_reader(_OperationsRow),
)
_SET_STATUS = """
    update actions set status = %(status)s, lastupdatetime = %(now)s where id = %(id)s
"""
# The row is locked: of two schedulers, only one goes on.
_BEGIN_ACTION = select_ids(
    f"""
    update actions set status = 'inflight', starttime = %(now)s, lastupdatetime = %(now)s
    where id = %(id)s and status = 'preparing'
    returning {id_sql("id")}
    """
)
_ADD_COMMANDS = """
    insert into commands (id, actionid, agentid, status, results, starttime)
    select command.id, %(id)s, command.agentid, 'prepared', '[]'::json, %(now)s
    from unnest(%(commands)s::numeric[], %(agents)s::numeric[]) as command (id, agentid)
"""
_CHANGE_COMMANDS = """
    with changed as (
        update commands c
        set status = new.status, results = new.results::json,
            finishtime = new.finishtime
        from unnest(%(ids)s::numeric[], %(statuses)s, %(results)s, %(finished)s::timestamptz[])
            as new (id, status, results, finishtime)
        where c.id = new.id
        returning c.actionid
    )
    update actions set lastupdatetime = %(now)s where id in (select actionid from changed)
"""
_COMPLETE_ACTIONS = select_ids(
    f"""
    update actions a
    set status = 'completed', lastupdatetime = %s,
        finishtime = (select max(finishtime) from commands where actionid = a.id)
    where id = any(%s::numeric[]) and status = 'inflight' and not exists (
        select from commands where actionid = a.id and status = any(%s)
    )
    returning {id_sql("id")}
    """
)


class Scheduler:
    """The scheduler of a spool, and the agents of the demo's fleet.

    :param owner: the database as its owner, who writes what schedulers write.
    :param reader: the database as the daemon has it, for the conditions of clients.
    :param spool: the folder of the spool.
    :param wall_clock: the time of day.
    """

    log = Logger()

    def __init__(
        self, owner: Database, reader: Database, spool: Path, wall_clock: WallClock
    ) -> None:
        self._owner = owner
        self._reader = reader
        self._actions = spool / "action"
        self._wall_clock = wall_clock
        self._limits = Limits()

    async def run_once(self) -> None:
        """Do everything that is due now.

        :raises UnavailableError: when the database cannot be used; what is left is done next time.
        """
        await self._take_actions()
        states = await self._select_states(self._list_files("inflight"))
        for action_id, state in states.items():
            if state is not None and state.status == "preparing":
                await self._begin_action(action_id)
        await self._complete_actions(await self._answer_commands())
        await self._sort_files()

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._wall_clock(), UTC)

    def _list_files(self, folder: str) -> list[str]:
        """Return the ids of the actions whose files are in a folder."""
        return sorted(path.stem for path in (self._actions / folder).glob("*.json"))

    def _move_file(self, action_id: str, before: str, after: str) -> None:
        source = self._actions / before / f"{action_id}.json"
        source.replace(self._actions / after / source.name)

    async def _select_states(self, ids: Sequence[str]) -> dict[str, _ActionState | None]:
        """Return the state of each action, ``None`` for one that does not exist."""
        if not ids:
            return {}
        known = [action_id for action_id in ids if _is_id(action_id)]
        found = await self._owner.query(_SELECT_STATES, (id_array(known),))
        return {**dict.fromkeys(ids), **{state.id: state for state in found}}

    # -- new actions ------------------------------------------------------------------------

    async def _take_actions(self) -> None:
        states = await self._select_states(self._list_files("new"))
        now = self._wall_clock()
        due = [(n, state) for n, state in states.items() if state is None or state.validfrom <= now]
        for action_id, state in due[:TAKEN_AT_ONCE]:
            if state is None:
                self._refuse_file(action_id, "new", "there is no such action in the database")
            elif state.status not in (NEW_STATUS, "preparing"):
                self._refuse_file(action_id, "new", f"it was {state.status} before")
            elif state.expireafter <= now:
                await self._invalidate(action_id, "new", "it expired before it began")
            else:
                # in this order: the outbox looks for the file first, and then at the status
                await self._set_status(action_id, "preparing")
                self._move_file(action_id, "new", "inflight")

    async def _begin_action(self, action_id: str) -> None:
        """Make a command for each agent of the target."""
        try:
            action = self._read_file(action_id)
            agents = await self._find_agents(action.target)
        except (InvalidInputError, msgspec.DecodeError) as reason:
            await self._invalidate(action_id, "inflight", str(reason))
            return
        if not agents:
            await self._invalidate(action_id, "inflight", "no agent fulfils its target")
            return
        parameters = {
            "id": action_id,
            "now": self._now(),
            "commands": id_array(str(generate_id()) for _ in agents),
            "agents": id_array(agents),
        }
        async with self._owner.transaction() as transaction:
            if await transaction.query(_BEGIN_ACTION, parameters):
                await transaction.query(_ADD_COMMANDS, parameters)
                self._log_action(action_id, f"{action.name!r} goes to {len(agents)} agents")

    def _read_file(self, action_id: str) -> _SpooledAction:
        """Return the action of a file.

        :raises InvalidInputError: for one that the agents do not answer.
        """
        text = (self._actions / "inflight" / f"{action_id}.json").read_bytes()
        action = msgspec.json.decode(text, type=_SpooledAction)
        if str(action.id) != action_id:
            raise InvalidInputError(f"the file contains the action {action.id}")
        if len(action.operations) > MAX_OPERATIONS:
            raise InvalidInputError(f"the demo answers at most {MAX_OPERATIONS} operations")
        return action

    async def _find_agents(self, target: str) -> list[str]:
        slices = await find_targeted_agents(
            self._reader, parse_target(target), client=_CLIENT, limits=self._limits
        )
        return [agent for each in slices for agent in each.strip("{}").split(",")]

    # -- running actions --------------------------------------------------------------------

    async def _answer_commands(self) -> list[str]:
        """Give each command its status of now; return the actions all of whose commands ended."""
        running = [row.id for row in await self._owner.query(_SELECT_RUNNING)]
        if not running:
            return []
        commands = await self._owner.query(
            _SELECT_UNFINISHED, (id_array(running), list(UNFINISHED))
        )
        changes = list(self._find_changes(commands))
        for start in range(0, len(changes), ANSWERS_AT_ONCE):
            await self._change_commands(changes[start : start + ANSWERS_AT_ONCE])
        ended = {change.command.id for change in changes if change.finished is not None}
        unfinished = {command.action_id for command in commands if command.id not in ended}
        return [action_id for action_id in running if action_id not in unfinished]

    def _find_changes(self, commands: Iterable[_UnfinishedCommand]) -> Iterator[_Change]:
        now = self._now()
        for command in commands:
            outcome, machine = _choose_outcome(command)
            expires = datetime.fromtimestamp(command.expires, UTC)
            started = datetime.fromtimestamp(command.started, UTC)
            finished: datetime | None
            if expires <= now:
                status, finished = "expired", expires
            else:
                status, finished = outcome.find_status(started, expires, now)
                # now, not in the past: clients ask for what has finished since they last asked
                finished = now if finished else None
            if status != command.status:
                yield _Change(command=command, machine=machine, status=status, finished=finished)

    async def _change_commands(self, changes: Sequence[_Change]) -> None:
        answering = {c.command.action_id for c in changes if c.status == "success"}
        rows = await self._owner.query(_SELECT_OPERATIONS, (id_array(answering),))
        operations = {
            row.id: msgspec.json.decode(row.operations, type=list[Operation]) for row in rows
        }
        columns: dict[str, list[object]] = defaultdict(list)
        for change in changes:
            results: list[bytes] = []
            if change.status == "success" and change.machine is not None:
                results = make_results(operations[change.command.action_id], change.machine)
            columns["ids"].append(change.command.id)
            columns["statuses"].append(change.status)
            columns["results"].append(join_results(results))
            columns["finished"].append(change.finished)
        await self._owner.query(_CHANGE_COMMANDS, {**columns, "now": self._now()})

    async def _complete_actions(self, ids: Sequence[str]) -> None:
        if not ids:
            return
        parameters = (self._now(), id_array(ids), list(UNFINISHED))
        for row in await self._owner.query(_COMPLETE_ACTIONS, parameters):
            self._log_action(row.id, "is completed")

    async def _sort_files(self) -> None:
        """Move the files of actions that are not in flight any more."""
        states = await self._select_states(self._list_files("inflight"))
        for action_id, state in states.items():
            if state is None:
                self._refuse_file(action_id, "inflight", "it is no longer in the database")
            elif state.status == "completed":
                self._move_file(action_id, "inflight", "done")
            elif state.status == "invalid":
                self._move_file(action_id, "inflight", "invalid")

    # -- the end ----------------------------------------------------------------------------

    async def _invalidate(self, action_id: str, folder: str, reason: str) -> None:
        await self._set_status(action_id, "invalid")
        self._refuse_file(action_id, folder, reason)

    def _refuse_file(self, action_id: str, folder: str, reason: str) -> None:
        self._move_file(action_id, folder, "invalid")
        self._log_action(action_id, f"is invalid: {reason}")

    async def _set_status(self, action_id: str, status: str) -> None:
        parameters = {"id": action_id, "status": status, "now": self._now()}
        await self._owner.query(_SET_STATUS, parameters)

    def _log_action(self, action_id: str, what: str) -> None:
        self.log.info("action {action_id} {what}", action_id=action_id, what=what)


class _Change(NamedTuple):
    """The next status of a command, and who answers it: ``None`` for an agent of somebody else."""

    command: _UnfinishedCommand
    machine: Machine | None
    status: str
    finished: datetime | None


_NEVER: Final = Outcome(status="expired", sent=None, ended=None)


def _choose_outcome(command: _UnfinishedCommand) -> tuple[Outcome, Machine | None]:
    machine = MACHINES_BY_AGENT.get(int(command.agent_id))
    if machine is None:
        return _NEVER, None
    run = find_run(int(command.action_id))
    if run is None:
        return choose_outcome(machine), machine
    return choose_recurring_outcome(machine, run), machine


def _is_id(text: str) -> bool:
    try:
        return str(parse_id("the name of the file", text)) == text
    except InvalidInputError:
        return False
