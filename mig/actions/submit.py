"""The use case of submitting an action: check, verify, store, and hand over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Final

from mig.access.audit import Actor
from mig.actions.handoff import Handoff
from mig.actions.parser import ActionParser, OpenedAction
from mig.actions.store import AcceptedAction, ActionStore
from mig.actions.submission import Submission
from mig.errors import InvalidInputError, RequestError, UnavailableError, drop_traceback
from mig.model.statement import QueryFunction
from mig.openpgp.packet import Signature
from mig.reactor import WallClock
from mig.signing.canonical import build_signed_texts
from mig.signing.gpg.verify import Gpg
from mig.signing.keyring import Keyring, Signer
from mig.signing.signer import find_active_signers, find_signer
from mig.web.forms import ContentType

MAX_ATTEMPTS: Final = 3
"""How often the signatures of an action are verified while keys keep changing."""


class Submitter:
    """Accepts signed actions.

    :param wall_clock: the time of day, to refuse actions that have expired.
    :param parser: parses what clients send.
    :param query: reads the keys of investigators, which ``keyring`` caches.
    :param store: where an action is stored.
    :param handoff: how it reaches the scheduler.
    """

    def __init__(
        self,
        wall_clock: WallClock,
        parser: ActionParser,
        query: QueryFunction,
        gpg: Gpg,
        keyring: Keyring,
        store: ActionStore,
        handoff: Handoff,
    ) -> None:
        self._wall_clock = wall_clock
        self._parser = parser
        self._query = query
        self._gpg = gpg
        self._keyring = keyring
        self._store = store
        self._handoff = handoff

    async def submit(
        self, content_type: ContentType, content: BytesIO, client: str, actor: Actor
    ) -> AcceptedAction:
        """Accept the action in a body.

        What is cheap is checked first: the signatures' form and their keys, before the rest of the
        action is looked at and long before gpg runs.

        :param client: whose share of the parser and of gpg is used.
        :param actor: who submits it, for the audit.
        :raises InvalidInputError: when the action or one of its signatures is not accepted.
        :raises ConflictError: when it was accepted before and has been deleted since, or exists but
            was not created through this API.
        :raises UnavailableError: when it cannot be verified, stored or handed over now. Then it is
            not stored, unless the answer to the commit was lost.
        """
        try:
            async with self._parser.open(content_type, content, client) as opened:
                return await self._accept(opened, client, actor)
        except RequestError as reason:
            drop_traceback(reason)
            raise

    async def _accept(self, opened: OpenedAction, client: str, actor: Actor) -> AcceptedAction:
        await self._check_keys(opened.signatures)
        submission = await opened.parse()
        submission.check_not_expired(self._wall_clock())
        self._handoff.check_available()
        accepted = await self._verify_and_store(submission, client, actor)
        if accepted.new_row is not None:
            await self._handoff.flush(accepted.id)
        return accepted

    async def _check_keys(self, signatures: Sequence[Signature]) -> None:
        """Refuse a signature whose key no active investigator has, also among fresh keys.

        :raises InvalidInputError: naming the signature.
        """
        cached = self._keyring.cached_signers
        try:
            _find_owners(cached, signatures)
        except InvalidInputError:
            signers = await self._load_signers()
            if signers == cached:
                raise
            _find_owners(signers, signatures)

    async def _verify_and_store(
        self, submission: Submission, client: str, actor: Actor
    ) -> AcceptedAction:
        """Verify with the cached keys, and with freshly loaded ones before anything is refused."""
        fresh = not self._keyring.cached_signers
        for _ in range(MAX_ATTEMPTS):
            candidates = await self._load_signers() if fresh else self._keyring.cached_signers
            try:
                signers = await self._verify_signatures(submission, candidates, client)
            except InvalidInputError:
                if fresh or await self._load_signers() == candidates:
                    raise
                continue
            accepted = await self._store.store_action(submission, signers, actor)
            if accepted is not None:
                return accepted
            fresh = True
        raise UnavailableError("the keys of investigators are being changed")

    async def _load_signers(self) -> list[Signer]:
        return await self._keyring.reload_signers(self._query)

    async def _verify_signatures(
        self, submission: Submission, candidates: Sequence[Signer], client: str
    ) -> list[Signer]:
        """Return the signers, in the order of the signatures."""
        forms = build_signed_texts(submission.signable)
        signers = []
        for n, signature in enumerate(submission.signatures):
            with _name_signature(n):
                signer, text = await find_signer(self._gpg, candidates, signature, forms, client)
            submission.check_signed_text(text, keeps_nanoseconds=self._handoff.uses_spool)
            signers.append(signer)
        return signers


def _find_owners(signers: Sequence[Signer], signatures: Sequence[Signature]) -> None:
    """Find the owners of the keys of all ``signatures``.

    :raises InvalidInputError: naming a signature whose key no active signer has.
    """
    for n, signature in enumerate(signatures):
        with _name_signature(n):
            find_active_signers(signers, signature)


@contextmanager
def _name_signature(n: int) -> Iterator[None]:
    """Name the signature in the message of an error."""
    try:
        yield
    except InvalidInputError as reason:
        where = f"pgpsignatures[{n}]"
        raise InvalidInputError(f"{where}: {reason}", where) from None
