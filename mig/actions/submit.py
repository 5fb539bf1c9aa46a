"""A signed action is checked, stored and handed over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from mig.actions import submission
from mig.actions.faults import reached
from mig.actions.handoff import Polled
from mig.actions.keyring import ACTIVE, Keyring, Signer, owners
from mig.actions.submission import NOT_FINISHED, NOT_STARTED, SYNTAX_VERSION, Submission
from mig.database.pool import Database, TooLong, Transaction
from mig.records.stored import id_array
from mig.signing.canonical import Signable, Text, operations, texts
from mig.signing.gpg import BadSignature, Gpg
from mig.signing.packet import Signature
from mig.values import Conflict, InvalidInput, Unavailable, new_id, parse_json

ATTEMPTS: Final = 3
"""How often signatures are verified when keys change meanwhile."""

_SIGNERS = (
    "select id::text, status, publickey from investigators where id = any(%s::numeric[])"
    " order by id for share"
)
_CLAIM = (
    "insert into submissions (identity, actionid, handedover, document)"
    " values (%s, %s, case when %s then null else now() end, %s)"
    " on conflict (identity) do nothing returning actionid"
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
_ACTION = (
    "insert into actions (id, name, target, description, threat, operations, validfrom,"
    " expireafter, starttime, finishtime, lastupdatetime, status, pgpsignatures, syntaxversion)"
    " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
)
_SIGNATURE = "insert into signatures (actionid, investigatorid, pgpsignature) values (%s, %s, %s)"


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """An action that is stored under *id*; *new* tells whether this submission did it."""

    id: int
    new: bool


class _KeysChanged(Exception):
    """A signer's row is no longer what the signature was verified against."""

    def __init__(self, ids: Sequence[str]) -> None:
        super().__init__()
        self.ids = ids


class Actions:
    """Takes signed actions.

    :param handoff: how they reach the scheduler.
    """

    def __init__(self, reactor: Any, database: Database, gpg: Gpg, handoff: Polled) -> None:
        self._reactor = reactor
        self._database = database
        self._gpg = gpg
        self._handoff = handoff
        self._keyring = Keyring()

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
        if accepted.new:
            await self._handoff.flush()
        return accepted

    def _check_time(self, action: Signable) -> None:
        if action.expireafter.seconds <= self._reactor.seconds():
            raise InvalidInput("expireafter must be in the future", "expireafter")

    async def _store(self, submitted: Submission) -> Accepted:
        for _ in range(ATTEMPTS):
            signers = await self._verify(submitted)
            reached("verified")
            try:
                async with self._database.transaction() as transaction:
                    accepted = await self._insert(transaction, submitted, signers)
                    reached("inserted")
            except _KeysChanged as changed:
                self._keyring.forget(changed.ids)
                continue
            reached("committed")
            return accepted
        raise Unavailable("the keys of investigators are being changed")

    async def _verify(self, submitted: Submission) -> list[Signer]:
        """Who signed, in the order of the signatures."""
        known = await self._keyring.signers(self._database.query)
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
        """The older text has nanoseconds, of which the database keeps microseconds."""
        if self._handoff.spooled or text.form != "gotime":
            return
        for name, time in (("validfrom", action.validfrom), ("expireafter", action.expireafter)):
            if not time.exact:
                raise InvalidInput(
                    f"{name} must not be finer than a microsecond: the hand-off through the"
                    " database would lose what was signed",
                    name,
                )

    async def _insert(
        self, transaction: Transaction, submitted: Submission, signers: Sequence[Signer]
    ) -> Accepted:
        await _check_signers(transaction, signers)
        action = submitted.signable
        id = new_id()
        spooled = self._handoff.spooled
        document = submitted.document(id) if spooled else None
        claim = (action.identity, id, spooled, document)
        if not await transaction.query(_CLAIM, claim):
            return await _claimed(transaction, action)
        reached("claimed")
        earlier = await _alike(transaction, action)
        if earlier is not None:
            raise Conflict(
                f"this action is there already as {earlier}, which did not come through this API"
            )
        await self._insert_action(transaction, id, submitted)
        signed = dict(zip((signer.id for signer in signers), submitted.pgpsignatures, strict=True))
        for signer, signature in signed.items():
            await transaction.query(_SIGNATURE, (id, signer, signature))
        return Accepted(id=id, new=True)

    async def _insert_action(
        self, transaction: Transaction, id: int, submitted: Submission
    ) -> None:
        action = submitted.signable
        row = (
            id,
            action.name,
            action.target,
            submitted.description,
            submitted.threat,
            action.operations,
            action.validfrom.microseconds,
            action.expireafter.microseconds,
            NOT_STARTED,
            NOT_FINISHED,
            NOT_STARTED,
            self._handoff.status,
            submitted.pgpsignatures_json,
            SYNTAX_VERSION,
        )
        try:
            await transaction.query(_ACTION, row)
        except TooLong:
            raise InvalidInput(
                "the pgpsignatures together are too long for this database, which takes 4096"
                " letters",
                "pgpsignatures",
            ) from None


async def _check_signers(transaction: Transaction, signers: Sequence[Signer]) -> None:
    """Hold the signers' rows until the end, when they are still what was verified against."""
    ids = sorted({signer.id for signer in signers})
    rows = await transaction.query(_SIGNERS, (id_array(ids),))
    now = {id: (status, bytes(key or b"")) for id, status, key in rows}
    changed = [s.id for s in signers if now.get(s.id) != (ACTIVE, s.publickey)]
    if changed:
        raise _KeysChanged(changed)


async def _claimed(transaction: Transaction, action: Signable) -> Accepted:
    ((id, there),) = await transaction.query(_CLAIMED, (action.identity,))
    if not there:
        raise Conflict(f"this action was accepted as {id} and has been deleted since")
    return Accepted(id=int(id), new=False)


async def _alike(transaction: Transaction, action: Signable) -> int | None:
    """The same action, that came into the database without this API."""
    begin, end = action.validfrom.seconds, action.expireafter.seconds
    rows = await transaction.query(_ALIKE, (begin, begin, end, end, action.name, action.target))
    for id, stored in rows:
        try:
            if operations(parse_json(stored or "null", "operations")) == action.operations:
                return int(id)
        except InvalidInput:
            continue
    return None
