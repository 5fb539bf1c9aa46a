"""From parameters to a condition on the one table that is streamed.

The streamed query never joins: sorting a join costs more than everything else together. So filters
on actions, agents and investigators are resolved to ids first (docs/decisions/0009).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mig.model.row import id_sql
from mig.model.statement import QueryFunction, id_array, select_ids
from mig.search.condition import Condition
from mig.search.parameters import find_parameter
from mig.search.search import Search

MAX_INLINE_IDS: Final = 20_000
"""If a filter matches more rows than this, it remains a subselect."""


_SLICE_SETTING: Final = "mig_api.targeted_agents_"
_KEEP_SLICE: Final = select_ids("select length(set_config(%s, %s, true))::text")


@dataclass(frozen=True, kw_only=True)
class SearchedTable:
    """The table of a type."""

    table: str
    alias: str


SEARCHED_TABLES: Final = {
    "action": SearchedTable(table="actions", alias="a"),
    "command": SearchedTable(table="commands", alias="c"),
    "agent": SearchedTable(table="agents", alias="g"),
    "investigator": SearchedTable(table="investigators", alias="i"),
}


async def resolve_filters(query: QueryFunction, search: Search) -> Condition:
    """Return the condition on the searched table that all parameters together set.

    Conditions on other tables must be true for one and the same command. An agent that is found by
    an action's name and a command's id has that command, and the command is of such an action.
    """
    own = _build_condition(search, SEARCHED_TABLES[search.type].table)
    if search.type == "command":
        return own & await _match_actions(query, search) & await _match_agents(query, search)
    commands = _build_condition(search, "commands")
    if search.type == "agent":
        commands &= await _match_actions(query, search)
        has_command = _match_subselect("id", "select agentid from commands", commands)
        return own & await _match_targeted_agents(query, search) & has_command
    commands &= await _match_agents(query, search)
    has_command = _match_subselect("id", "select actionid from commands", commands)
    if search.type == "action":
        return own & await _match_signers(query, search) & has_command
    actions = _build_condition(search, "actions") & has_command
    signed = await _match_ids(query, "actionid", "actions", actions)
    return own & _match_subselect("id", "select investigatorid from signatures", signed)


async def _match_targeted_agents(query: QueryFunction, search: Search) -> Condition:
    slices = search.targeted_agents
    if slices is None:
        return Condition()
    if len(slices) <= 1:
        return Condition("id = any(%s::numeric[])", (slices[0] if slices else id_array(()),))
    # A large statement takes long to build, and a read-only transaction creates no table. So each
    # slice becomes a setting of the transaction.
    for number, ids in enumerate(slices):
        await query(_KEEP_SLICE, (f"{_SLICE_SETTING}{number}", ids))
    # coalesce keeps PostgreSQL from making a join of this, whose size it cannot estimate: it reads
    # the agents in the order of the search, and looks up each one in a hash table of the ids
    return Condition(
        "coalesce(id in (select unnest(current_setting(%s || number)::numeric[])"
        " from generate_series(0, %s) as number), false)",
        (_SLICE_SETTING, len(slices) - 1),
    )


def build_agent_condition(search: Search) -> Condition:
    """Return the condition on agents that a search for commands sets, but that on its own times."""
    return _build_condition(search, "agents")


def _build_condition(search: Search, table: str) -> Condition:
    """Return the condition that the parameters of a search set on the rows of ``table``."""
    condition = Condition()
    is_own = SEARCHED_TABLES[search.type].table == table
    for name, value in search.effective_values.items():
        parameter = find_parameter(name)
        if value is not None and (is_own or not parameter.searched_table_only):
            condition &= parameter.build_condition(table, value)
    return condition


async def _match_actions(query: QueryFunction, search: Search) -> Condition:
    actions = _build_condition(search, "actions") & await _match_signers(query, search)
    return await _match_ids(query, "actionid", "actions", actions)


async def _match_agents(query: QueryFunction, search: Search) -> Condition:
    return await _match_ids(query, "agentid", "agents", _build_condition(search, "agents"))


async def _match_signers(query: QueryFunction, search: Search) -> Condition:
    """Return the condition that an action is signed by the investigators that are searched for."""
    investigators = _build_condition(search, "investigators")
    signatures = await _match_ids(query, "investigatorid", "investigators", investigators)
    return _match_subselect("id", "select actionid from signatures", signatures)


async def _match_ids(
    query: QueryFunction, column: str, table: str, condition: Condition
) -> Condition:
    """Return the condition that ``column`` is the id of a row of ``table`` that matches."""
    if not condition.sql:
        return Condition()
    select = Condition(
        f"select id from {table}{condition.build_where_clause()}", condition.parameters
    )
    limited = select_ids(
        f"select {id_sql('id')} from ({select.sql} limit {MAX_INLINE_IDS + 1}) matches"
    )
    ids = [row.id for row in await query(limited, select.parameters)]
    if len(ids) > MAX_INLINE_IDS:
        return Condition(f"{column} in ({select.sql})", select.parameters)
    if len(ids) == 1:  # an index on the column then also provides the order (docs/decisions/0010)
        return Condition(f"{column} = %s::numeric", (ids[0],))
    return Condition(f"{column} = any(%s::numeric[])", (id_array(ids),))


def _match_subselect(column: str, select: str, condition: Condition) -> Condition:
    """Return the condition that ``column`` is in the rows of ``select`` that match ``condition``.

    An empty condition stays empty.
    """
    if not condition.sql:
        return condition
    return Condition(
        f"{column} in ({select}{condition.build_where_clause()})", condition.parameters
    )
