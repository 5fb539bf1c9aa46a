"""Who made a signature, and over which text."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from mig.errors import BadSignatureError, InvalidInputError, drop_traceback
from mig.openpgp.packet import Signature
from mig.signing.canonical import SignedText
from mig.signing.gpg.verify import Gpg
from mig.signing.keyring import Signer, find_key_owners

Result = TypeVar("Result")


def find_active_signers(signers: Sequence[Signer], signature: Signature) -> list[Signer]:
    """Return those of ``signers`` who may have made a signature, by the key that it names.

    :raises InvalidInputError: when none of them has the key, or none of those is active.
    """
    candidates = find_key_owners(signers, signature.issuers)
    active = [signer for signer in candidates if signer.is_active]
    if not active:
        names = ", ".join(f"{s.name!r} ({s.id})" for s in candidates)
        raise InvalidInputError(
            f"the investigator {names} is not active"
            if candidates
            else f"no investigator has the key {signature.issuers[0]}"
        )
    return active


async def find_signer(
    gpg: Gpg,
    signers: Sequence[Signer],
    signature: Signature,
    texts: Sequence[SignedText],
    client: str = "",
) -> tuple[Signer, SignedText]:
    """Return the one of ``signers`` who made a signature, and the one of ``texts`` that it covers.

    :param client: who sent the signature; clients share gpg fairly.
    :raises InvalidInputError: when no signer made it, several may have made it, or the signer is
        not active, and when the signature is bad.
    :raises UnavailableError: when the signature cannot be checked now.
    """

    async def find_text(signer: Signer) -> SignedText:
        return await _find_text(gpg, signer, signature, texts, client)

    return await _find_only_signer(find_active_signers(signers, signature), find_text)


async def find_signer_of_text(
    gpg: Gpg, signers: Sequence[Signer], signature: Signature, text: bytes, client: str = ""
) -> Signer:
    """Return the one of ``signers`` who made a signature over ``text``.

    :raises InvalidInputError: as by :func:`find_signer`.
    :raises UnavailableError: when the signature cannot be checked now.
    """

    async def verify(signer: Signer) -> None:
        await gpg.verify(signer.certificate, signature, text, client)

    signer, _ = await _find_only_signer(find_active_signers(signers, signature), verify)
    return signer


async def _find_only_signer(
    active: Sequence[Signer], verify: Callable[[Signer], Awaitable[Result]]
) -> tuple[Signer, Result]:
    """Return the only one of the ``active`` whose signature is good, and what ``verify`` returns.

    All of their certificates contain the key, but one may contain another's key without its
    consent. So every certificate is tried: docs/decisions/0026.
    """
    found = []
    reasons = []
    for signer in active:
        try:
            found.append((signer, await verify(signer)))
        except InvalidInputError as reason:
            reasons.append(reason)
    if len(found) > 1:
        names = ", ".join(f"{signer.name!r} ({signer.id})" for signer, _ in found)
        raise InvalidInputError(f"the key that made it belongs to several investigators: {names}")
    if not found:
        # any other reason says more than "made over another text"
        raise next((r for r in reasons if not isinstance(r, BadSignatureError)), reasons[0])
    return found[0]


async def _find_text(
    gpg: Gpg, signer: Signer, signature: Signature, texts: Sequence[SignedText], client: str
) -> SignedText:
    for text in texts:
        try:
            await gpg.verify(signer.certificate, signature, text.text, client)
        except BadSignatureError as reason:
            drop_traceback(reason)
            continue
        return text
    raise BadSignatureError(
        "it is not a signature over this action, in either of its two texts; was it made over the"
        " same dates in another form? Write them in UTC, with Z, before signing"
    )
