"""Storage of actions: one statement stores each action once (docs/decisions/0029)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Final, NamedTuple

from msgspec import Raw

from mig.access.audit import (
    ACTOR_TYPES,
    DONE,
    INSERT_SQL,
    REPEATED,
    Actor,
    explain_missing_audit,
)
from mig.actions.handoff import Handoff
from mig.actions.submission import (
    NOT_FINISHED,
    NOT_STARTED,
    SYNTAX_VERSION,
    Submission,
    parse_operations,
)
from mig.database.database import Database
from mig.errors import ConflictError, InvalidInputError, UnavailableError, ValueTooLongError
from mig.model.action import Action, ActionRow
from mig.model.investigator import SIGNER_SQL
from mig.model.record import encode_json
from mig.model.row import Columns, id_sql, make_row_reader
from mig.model.statement import Statement, id_array
from mig.signing.canonical import Signable, encode_go_json, encode_operations
from mig.signing.keyring import Signer
from mig.values import generate_id, parse_json

MAX_ATTEMPTS: Final = 3
"""How often an action is stored when others submit and delete the same one at the same time."""


class _Outcome(NamedTuple):
    """What :data:`_STORE` found.

    ``valid`` is whether the rows of all signers are still those that the signatures were verified
    with, ``alike`` whether an action exists that may be the same. ``signers`` are the rows of the
    signers.
    """

    valid: Annotated[bool, "valid.signers"]
    alike: Annotated[bool, "alike.found"]
    signers: Annotated[
        str | None, "(select json_agg(signer.row order by signer.id)::text from signer)"
    ]


_OUTCOME = Columns(_Outcome)
_ACTION = _OUTCOME.make_next(ActionRow)

# signer: locked in the order of their ids, so that two submissions cannot deadlock. The locks are
#     also a change that must reach a synchronous standby, so when an action turns out to have been
#     stored earlier, that is there, too (docs/decisions/0048).
# alike: actions that came into the database without this API. Times count to the second, as in the
#     identity; the intervals, instead of date_trunc, can use an index.
# claimed: the primary key of submissions decides between submissions at the same time.
# stored: without the operations, which may be large; they are known here.
# audited: here, so that there is neither an action without its row nor a row without its action.
# The left join returns a row also when nothing was stored.
_STORE = Statement(
    f"""
with signer as (
    select i.id, signed.pgpsignature, {SIGNER_SQL} as row
    from unnest(%(signers)s, %(keys)s, %(pgpsignatures)s)
        as signed (id, key, pgpsignature)
    join investigators i on i.id = signed.id and sha256(i.publickey) = signed.key
    where i.status = 'active'
    order by i.id
    for share of i
), valid as (
    select count(*) = cardinality(%(signers)s) as signers
    from signer
), alike as (
    select exists (
        select from actions
        where validfrom >= to_timestamp(%(begin)s) and validfrom < to_timestamp(%(begin)s + 1)
            and expireafter >= to_timestamp(%(end)s) and expireafter < to_timestamp(%(end)s + 1)
            and name = %(name)s and target = %(target)s
            and id <> all (%(others)s)
            and not exists (select from submissions where actionid = actions.id)
    ) as found
), claimed as (
    insert into submissions (identity, actionid, handedover, document)
    select
        %(identity)s, %(id)s, case when %(spooled)s then null else now() end,
        case when %(spooled)s then %(head)s || %(operations)s || %(tail)s end
    from valid, alike
    where valid.signers and not alike.found
    on conflict (identity) do nothing
    returning actionid
), stored as (
    insert into actions as a (
        id, name, target, description, threat, operations, validfrom, expireafter,
        starttime, finishtime, lastupdatetime, status, pgpsignatures, syntaxversion
    )
    select
        actionid, %(name)s, %(target)s, %(description)s::json, %(threat)s::json,
        %(operations)s::json, %(validfrom)s::timestamptz, %(expireafter)s::timestamptz,
        %(not_started)s::timestamptz, %(not_finished)s::timestamptz,
        %(not_started)s::timestamptz, %(status)s, %(all_signatures)s::json, %(syntaxversion)s
    from claimed
    returning
        id, name, target, description, threat, null::json as operations, validfrom, expireafter,
        starttime, finishtime, lastupdatetime, status, pgpsignatures, syntaxversion
), signed as (
    insert into signatures (actionid, investigatorid, pgpsignature)
    select claimed.actionid, signer.id, signer.pgpsignature
    from claimed, signer
), audited as (
    {INSERT_SQL} '{Action.noun}', actionid, null, %(audited)s::json, '{DONE}'
    from claimed
)
select {_OUTCOME.sql}, {_ACTION.sql}
from valid
cross join alike
left join stored a on true
""",
    lambda row: (_OUTCOME.read_part(row), _ACTION.read_part(row)),
    name="store_action",
    writes=True,
    types={
        "identity": "bytea",
        "id": "numeric",
        "spooled": "boolean",
        "head": "text",
        "tail": "text",
        "signers": "numeric[]",
        "keys": "bytea[]",
        "pgpsignatures": "text[]",
        "begin": "bigint",
        "end": "bigint",
        "others": "numeric[]",
        "name": "text",
        "target": "text",
        "description": "text",
        "threat": "text",
        "operations": "text",
        "validfrom": "text",
        "expireafter": "text",
        "not_started": "text",
        "not_finished": "text",
        "status": "text",
        "all_signatures": "text",
        "syntaxversion": "integer",
        "audited": "text",
        **ACTOR_TYPES,
    },
)


class _ClaimedRow(NamedTuple):
    actionid: str
    exists: bool
    has_signers: bool


_SELECT_CLAIMED = Statement(
    f"""
    select {id_sql("s.actionid")}, a.id is not null,
        %(signers)s::numeric[] <@ array(
            select g.investigatorid from signatures g where g.actionid = s.actionid
        )
    from submissions s
    left join actions a on a.id = s.actionid
    where s.identity = %(identity)s
    """,
    make_row_reader(_ClaimedRow),
)

_AUDIT_REPETITION = Statement(
    f"{INSERT_SQL} '{Action.noun}', %(actionid)s, null, %(audited)s::json, '{REPEATED}'",
    make_row_reader(tuple),
    writes=True,
)


class _AlikeRow(NamedTuple):
    id: str
    operations: str | None


_SELECT_ALIKE = Statement(
    f"""
    select {id_sql("id")}, operations::text
    from actions
    where validfrom >= to_timestamp(%s) and validfrom < to_timestamp(%s + 1)
        and expireafter >= to_timestamp(%s) and expireafter < to_timestamp(%s + 1)
        and name = %s and target = %s
        and not exists (select from submissions where actionid = actions.id)
    order by id
    """,
    make_row_reader(_AlikeRow),
)


@dataclass(frozen=True, kw_only=True)
class AcceptedAction:
    """An action stored under ``id``; ``new_row`` is its row if this submission stored it."""

    id: int
    new_row: ActionRow | None = None


class ActionStore:
    """Stores each action once.

    :param handoff: how a stored action reaches the scheduler.
    """

    def __init__(self, database: Database, handoff: Handoff) -> None:
        self._database = database
        self._handoff = handoff

    async def store_action(
        self, submission: Submission, signers: Sequence[Signer], actor: Actor
    ) -> AcceptedAction | None:
        """Store an action, unless it was accepted before; return it, or the one accepted before.

        Return ``None`` when the rows of the signers have changed since they were verified.

        :param signers: one for each signature, in the same order.
        :param actor: who posts the action, for the audit.
        :raises InvalidInputError: when the signatures do not fit into the database.
        :raises ConflictError: when it was accepted before and has been deleted since, or exists but
            was not created through this API.
        :raises UnavailableError: when it cannot be stored now.
        """
        action_id = generate_id()
        parameters = self._build_parameters(action_id, submission, signers)
        parameters |= actor.to_parameters()
        for _ in range(MAX_ATTEMPTS):
            outcome, stored = await self._run_statement(parameters)
            if not outcome.valid:
                return None
            if stored is not None:
                operations = submission.signable.operations.decode()
                return AcceptedAction(id=action_id, new_row=stored._replace(operations=operations))
            earlier = await self._find_accepted(parameters, submission, signers)
            if earlier is not None:
                return earlier
            if outcome.alike:
                parameters["others"] = await self._find_similar_ids(submission.signable)
        raise UnavailableError("the same action is being submitted and deleted at the same time")

    def _build_parameters(
        self, action_id: int, submission: Submission, signers: Sequence[Signer]
    ) -> dict[str, object]:
        """Return the parameters of :data:`_STORE`."""
        action, uses_spool = submission.signable, self._handoff.uses_spool
        head, tail = submission.encode_document(action_id)
        # an investigator who signed twice is one signer
        signed = {s.id: (s, p) for s, p in zip(signers, submission.pgpsignatures, strict=True)}
        return {
            "id": action_id,
            "spooled": uses_spool,
            "head": head,
            "tail": tail,
            "identity": submission.identity,
            "begin": action.validfrom.unix_seconds,
            "end": action.expireafter.unix_seconds,
            "name": action.name,
            "target": action.target,
            "description": submission.description,
            "threat": submission.threat,
            "operations": action.operations.decode(),
            "validfrom": action.validfrom.microsecond_text,
            "expireafter": action.expireafter.microsecond_text,
            "all_signatures": encode_go_json(submission.pgpsignatures),
            "signers": id_array(signed),
            "others": id_array(()),
            "keys": [sha256(signer.publickey).digest() for signer, _ in signed.values()],
            "pgpsignatures": [signature for _, signature in signed.values()],
            "not_started": NOT_STARTED,
            "not_finished": NOT_FINISHED,
            "status": self._handoff.initial_status,
            "syntaxversion": SYNTAX_VERSION,
            "audited": _describe_action(action_id, submission, signers),
        }

    async def _run_statement(
        self, parameters: dict[str, object]
    ) -> tuple[_Outcome, ActionRow | None]:
        """Run :data:`_STORE`; return its outcome, and the row of the action if it was stored."""
        try:
            with explain_missing_audit():
                ((outcome, stored),) = await self._database.query(_STORE, parameters)
        except ValueTooLongError:
            raise InvalidInputError(
                "pgpsignatures must have at most 4096 characters together in this database",
                "pgpsignatures",
            ) from None
        if stored.id is None:  # the outer join found no stored action
            return outcome, None
        # a statement does not see the rows of signatures that it inserts itself
        return outcome, stored._replace(signers=outcome.signers)

    async def _find_accepted(
        self,
        parameters: dict[str, object],
        submission: Submission,
        signers: Sequence[Signer],
    ) -> AcceptedAction | None:
        """Return the action of the same identity if it was accepted earlier.

        When it was not signed by all of ``signers`` then, their signatures are not stored, but the
        audit gets a row.

        :param parameters: those of :data:`_STORE`.
        :raises ConflictError: when it was accepted and has been deleted since.
        """
        for row in await self._database.query(_SELECT_CLAIMED, parameters):
            if not row.exists:
                raise ConflictError(
                    f"this action was accepted as {row.actionid} and has been deleted since"
                )
            if not row.has_signers:
                audited = _describe_action(row.actionid, submission, signers)
                earlier = {"actionid": row.actionid, "audited": audited}
                with explain_missing_audit():
                    await self._database.query(_AUDIT_REPETITION, parameters | earlier)
            return AcceptedAction(id=int(row.actionid))
        return None

    async def _find_similar_ids(self, action: Signable) -> str:
        """Return, as an array, the ids of actions that differ only in their operations.

        Those that came through this API have an identity, and are not compared again.

        :raises ConflictError: when one has the same operations: it came into the database without
            this API.
        """
        begin, end = action.validfrom.unix_seconds, action.expireafter.unix_seconds
        parameters = (begin, begin, end, end, action.name, action.target)
        others = []
        for row in await self._database.query(_SELECT_ALIKE, parameters):
            if _encode_stored_operations(row.operations) == action.operations:
                raise ConflictError(
                    f"this action already exists as {row.id}, which was not created through"
                    " this API",
                    row.id,
                )
            others.append(row.id)
        return id_array(others)


def _describe_action(
    action_id: int | str, submission: Submission, signers: Sequence[Signer]
) -> str:
    """Return what the audit says of an action, as JSON."""
    audited = {
        "id": int(action_id),
        "name": submission.signable.name,
        "signers": [Raw(signer_id) for signer_id in dict.fromkeys(s.id for s in signers)],
        "identity": submission.identity.hex(),
    }
    return encode_json(audited).decode()


def _encode_stored_operations(stored: str | None) -> bytes | None:
    """Return stored operations as they would be signed, ``None`` if they cannot be signed."""
    try:
        return encode_operations(parse_operations(parse_json(stored or "null", "operations")))
    except InvalidInputError:
        return None
