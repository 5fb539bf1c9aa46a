"""A signed action is checked, stored and handed over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from twisted.internet.interfaces import IReactorTime

from mig.actions import submission
from mig.actions.handoff import Handoff
from mig.actions.submission import NOT_FINISHED, NOT_STARTED, SYNTAX_VERSION, Submission
from mig.database.pool import Database, Rows
from mig.database.prepared import Prepared
from mig.errors import BadSignature, Conflict, InvalidInput, TooLong, Unavailable
from mig.model.action import OWN_COLUMNS
from mig.model.investigator import COLUMNS as SIGNER_COLUMNS
from mig.model.row import Row, id_array
from mig.openpgp.packet import Signature
from mig.signing.canonical import Signable, Text, operations, texts
from mig.signing.gpg.verify import Gpg
from mig.signing.keyring import Keyring, Signer, owners
from mig.values import new_id, parse_json

ATTEMPTS: Final = 3
"""How often signatures are verified when keys change meanwhile."""

_STORE = Prepared(
    "store_action",
    f"""
with signer as (
    select i.id, signed.pgpsignature, json_build_array({SIGNER_COLUMNS}) as row
    from unnest(%(signers)s, %(keys)s, %(pgpsignatures)s)
        as signed (id, key, pgpsignature)
    join investigators i on i.id = signed.id and sha256(i.publickey) = signed.key
    where i.status = 'active' order by i.id for share of i
), valid as (
    select count(*) = cardinality(%(signers)s) as signers from signer
), alike as (
    select exists (
        select from actions where validfrom >= to_timestamp(%(begin)s)
        and validfrom < to_timestamp(%(begin)s + 1) and expireafter >= to_timestamp(%(end)s)
        and expireafter < to_timestamp(%(end)s + 1) and name = %(name)s and target = %(target)s
        and id <> all (%(others)s)
    ) as there
), claimed as (
    insert into submissions (identity, actionid, handedover, document)
    select %(identity)s, %(id)s, case when %(spooled)s then null else now() end, %(document)s
    from valid, alike where valid.signers and not alike.there
    on conflict (identity) do nothing returning actionid
), stored as (
    insert into actions as a (id, name, target, description, threat, operations, validfrom,
        expireafter, starttime, finishtime, lastupdatetime, status, pgpsignatures, syntaxversion)
    select actionid, %(name)s, %(target)s, %(description)s::json, %(threat)s::json,
        %(operations)s::json, %(validfrom)s::timestamptz, %(expireafter)s::timestamptz,
        %(not_started)s::timestamptz, %(not_finished)s::timestamptz,
        %(not_started)s::timestamptz, %(status)s, %(all_signatures)s::json,
        %(syntaxversion)s
    from claimed
    returning {OWN_COLUMNS}
), signed as (
    insert into signatures (actionid, investigatorid, pgpsignature)
    select claimed.actionid, signer.id, signer.pgpsignature from claimed, signer
)
select valid.signers, alike.there, stored.*,
    (select json_agg(signer.row order by signer.id)::text from signer)
from valid cross join alike left join stored on true
""",
    {
        "identity": "bytea",
        "id": "numeric",
        "spooled": "boolean",
        "document": "text",
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
    },
)
_CLAIMED = (
    "select s.actionid, a.id is not null from submissions s"
    " left join actions a on a.id = s.actionid where s.identity = %s"
)
_ALIKE = (
    "select id, operations::text from actions where validfrom >= to_timestamp(%s)"
    " and validfrom < to_timestamp(%s + 1) and expireafter >= to_timestamp(%s)"
    " and expireafter < to_timestamp(%s + 1) and name = %s and target = %s order by id"
)


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """An action that is stored under *id*; *new* is its row, of the columns
    :data:`mig.model.action.COLUMNS`, when this submission did it."""

    id: int
    new: Row | None = None


class Actions:
    """Takes signed actions.

    :param handoff: how they reach the scheduler.
    """

    def __init__(
        self,
        clock: IReactorTime,
        database: Database,
        gpg: Gpg,
        keyring: Keyring,
        handoff: Handoff,
    ) -> None:
        self._clock = clock
        self._database = database
        self._gpg = gpg
        self._keyring = keyring
        self._handoff = handoff

    async def submit(self, value: Any) -> Accepted:
        """Take the action in a value of :func:`mig.values.parse_json`.

        :raises InvalidInput: when it, or one of its signatures, is not accepted.
        :raises Conflict: when it was accepted before and has been deleted since.
        :raises Unavailable: when that cannot be told, stored or handed over now; then nothing is
            stored, but for a commit whose answer did not come.
        """
        submitted = submission.read(value)
        self._check_time(submitted.signable)
        self._handoff.check()
        accepted = await self._store(submitted)
        if accepted.new is not None:
            await self._handoff.flush(accepted.id)
        return accepted

    def _check_time(self, action: Signable) -> None:
        if action.expireafter.seconds <= self._clock.seconds():
            raise InvalidInput("expireafter must be in the future", "expireafter")

    async def _store(self, submitted: Submission) -> Accepted:
        """Verify with the keys that are known, and with fresh ones before anything is refused."""
        fresh = not self._keyring.known
        for _ in range(ATTEMPTS):
            known = await self._fresh_keys() if fresh else self._keyring.known
            try:
                signers = await self._verify(submitted, known)
            except InvalidInput:
                if fresh or await self._fresh_keys() == known:
                    raise
                continue
            accepted = await self._insert(submitted, signers)
            if accepted is not None:
                return accepted
            fresh = True
        raise Unavailable("the keys of investigators are being changed")

    async def _fresh_keys(self) -> list[Signer]:
        return await self._keyring.signers(self._database.query)

    async def _verify(self, submitted: Submission, known: Sequence[Signer]) -> list[Signer]:
        """Who signed, in the order of the signatures."""
        forms = texts(submitted.signable)
        signers = []
        for n, signature in enumerate(submitted.signatures):
            where = f"pgpsignatures[{n}]"
            try:
                signer, text = await self._signer(known, signature, forms)
            except InvalidInput as reason:
                raise InvalidInput(f"{where}: {reason}", where) from None
            text.check()
            self._check_precision(text, submitted.signable)
            signers.append(signer)
        return signers

    async def _signer(
        self, known: Sequence[Signer], signature: Signature, forms: Sequence[Text]
    ) -> tuple[Signer, Text]:
        candidates = owners(known, signature.issuers)
        active = [signer for signer in candidates if signer.active]
        if not active:
            names = ", ".join(f"{s.name!r} ({s.id})" for s in candidates)
            raise InvalidInput(
                f"the investigator {names} is not active"
                if candidates
                else f"no investigator has the key {signature.issuers[0]}"
            )
        return await self._only_signer(active, signature, forms)

    async def _only_signer(
        self, active: Sequence[Signer], signature: Signature, forms: Sequence[Text]
    ) -> tuple[Signer, Text]:
        """One of those whose certificates have the key; another's may have it without right.

        So a certificate with which the signature does not hold says nothing about the others.
        """
        found = []
        reasons = []
        for signer in active:
            try:
                found.append((signer, await self._text(signer, signature, forms)))
            except InvalidInput as reason:
                reasons.append(reason)
        if len(found) > 1:
            names = ", ".join(f"{signer.name!r} ({signer.id})" for signer, _ in found)
            raise InvalidInput(f"the key that made it belongs to several investigators: {names}")
        if not found:
            raise next((r for r in reasons if not isinstance(r, BadSignature)), reasons[0])
        return found[0]

    async def _text(self, signer: Signer, signature: Signature, forms: Sequence[Text]) -> Text:
        """Which of the texts it is that *signer* has signed."""
        for text in forms:
            try:
                await self._gpg.verify(signer.certificate, signature, text.text)
            except BadSignature:
                continue
            return text
        raise BadSignature("it is no signature over this action, in neither of its two texts")

    def _check_precision(self, text: Text, action: Signable) -> None:
        """The older text has nanoseconds and an offset; the database keeps neither."""
        if self._handoff.spooled or text.form != "gotime":
            return
        for name, time in (("validfrom", action.validfrom), ("expireafter", action.expireafter)):
            if not time.exact:
                raise InvalidInput(
                    f"{name} must be in UTC and not finer than a microsecond: the hand-off through"
                    " the database would lose what was signed",
                    name,
                )

    async def _insert(self, submitted: Submission, signers: Sequence[Signer]) -> Accepted | None:
        """Store the action, if its signers still are what was verified against, else ``None``."""
        row = self._row(submitted, signers)
        for _ in range(ATTEMPTS):
            ((valid, alike, *stored),) = await self._stored(row)
            if not valid:
                return None
            if stored[0] is not None:
                return Accepted(id=row["id"], new=stored)
            earlier = await self._claimed(submitted.signable)
            if earlier is not None:
                return earlier
            if alike:
                row["others"] = await self._others(submitted.signable)
        raise Unavailable("the same action is being submitted and deleted at once")

    def _row(self, submitted: Submission, signers: Sequence[Signer]) -> dict[str, Any]:
        """The parameters of :data:`_STORE`; an investigator who signed twice is one signer."""
        action, id = submitted.signable, new_id()
        signed = {s.id: (s, p) for s, p in zip(signers, submitted.pgpsignatures, strict=True)}
        return {
            "identity": action.identity,
            "id": id,
            "spooled": self._handoff.spooled,
            "document": submitted.document(id) if self._handoff.spooled else None,
            "signers": id_array(signed),
            "keys": [sha256(signer.publickey).digest() for signer, _ in signed.values()],
            "pgpsignatures": [signature for _, signature in signed.values()],
            "begin": action.validfrom.seconds,
            "end": action.expireafter.seconds,
            "others": "{}",
            "name": action.name,
            "target": action.target,
            "description": submitted.description,
            "threat": submitted.threat,
            "operations": action.operations,
            "validfrom": action.validfrom.microseconds,
            "expireafter": action.expireafter.microseconds,
            "not_started": NOT_STARTED,
            "not_finished": NOT_FINISHED,
            "status": self._handoff.status,
            "all_signatures": submitted.pgpsignatures_json,
            "syntaxversion": SYNTAX_VERSION,
        }

    async def _stored(self, row: dict[str, Any]) -> Rows:
        try:
            return await self._database.query(_STORE, row)
        except TooLong:
            raise InvalidInput(
                "the pgpsignatures together are too long for this database, which takes 4096"
                " letters",
                "pgpsignatures",
            ) from None

    async def _claimed(self, action: Signable) -> Accepted | None:
        """The same action, accepted earlier."""
        for id, there in await self._database.query(_CLAIMED, (action.identity,)):
            if not there:
                raise Conflict(f"this action was accepted as {id} and has been deleted since")
            return Accepted(id=int(id))
        return None

    async def _others(self, action: Signable) -> str:
        """Ids of the actions that look alike, but have other operations, as an array.

        :raises Conflict: when there is the same one, which came into the database without us.
        """
        begin, end = action.validfrom.seconds, action.expireafter.seconds
        parameters = (begin, begin, end, end, action.name, action.target)
        others = []
        for id, stored in await self._database.query(_ALIKE, parameters):
            if _canonical(stored) == action.operations:
                raise Conflict(
                    f"this action is there already as {id}, which did not come through this API",
                    str(id),
                )
            others.append(str(id))
        return id_array(others)


def _canonical(stored: str | None) -> str | None:
    """Stored operations in their signed form; ``None`` when they have none."""
    try:
        return operations(parse_json(stored or "null", "operations"))
    except InvalidInput:
        return None
