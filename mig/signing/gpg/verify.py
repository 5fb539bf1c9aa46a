"""gpg, asked about a signature or a key.

The verdict comes from gpg's status lines as bytes, on a pipe of their own, together with its exit
code. A run costs about 3 ms of a core; see :mod:`mig.signing.gpg.batch` for who shares one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from twisted.internet.defer import Deferred

from mig.errors import InvalidInputError
from mig.limits import Limits
from mig.openpgp import certificate as certificates
from mig.openpgp.certificate import Certificate, Key
from mig.openpgp.packet import HASHES, Signature
from mig.reactor import Reactor
from mig.signing.gpg.batch import Together
from mig.signing.gpg.process import SIGNATURE, TEXT, Runner, unreliable
from mig.signing.gpg.status import BAD, ERRORS_IN_SIGNATURE, Valid, key_state, refuse, status, valid

FUTURE_SECONDS: Final = 300
"""How far ahead of our clock a signature may be dated."""
STATE_NAMES: Final = {b"e": "has expired", b"r": "is revoked", b"i": "is invalid", b"d": "is off"}


@dataclass(frozen=True, kw_only=True)
class Verified:
    """A signature that holds."""

    fingerprint: str
    """The signer: the primary key of the certificate."""
    key_fingerprint: str
    """The primary key or subkey that made the signature."""
    created: int
    """Unix seconds."""


class Gpg:
    """Checks signatures and keys.

    :param program: the name or path of gpg.
    :param limits: how many gpg run, how many checks wait for one, and how long.
    """

    def __init__(
        self, reactor: Reactor, *, program: str = "gpg", limits: Limits | None = None
    ) -> None:
        self._reactor = reactor
        self._runner = Runner(reactor, program=program, limits=limits or Limits())
        self._together = Together(self._runner, self._alone)

    def stop(self) -> Deferred[None]:
        """Kill what runs and refuse the rest; fires when no gpg is left."""
        return self._runner.stop()

    async def verify(self, certificate: Certificate, signature: Signature, text: bytes) -> Verified:
        """That *signature* over *text* holds and was made by a good key of *certificate*.

        :raises InvalidInputError: when it does not, with the reason.
        :raises UnavailableError: when gpg gave no answer that can be relied on.
        """
        _refuse_future(certificate, "the key that made the signature")
        check = Deferred.fromCoroutine(self._together.verify(certificate, signature, text))
        check.addTimeout(self._runner.seconds, self._reactor, self._runner.too_late)
        return self._verdict(certificate, await check)

    async def _alone(self, certificate: Certificate, signature: Signature, text: bytes) -> Valid:
        answer = await self._runner.run(
            ["--verify", "--", f"-&{SIGNATURE}", "-"],
            keyring=certificate.packets,
            feed={TEXT: text, SIGNATURE: signature.raw},
        )
        lines = status(answer)
        state = key_state(lines)
        if state is not None:
            raise InvalidInputError(await self._why_not(certificate, state))
        refuse(lines)
        if answer.code != 0:
            raise unreliable(answer)
        found = valid(answer, lines)
        if found is None:
            raise InvalidInputError("gpg does not report exactly one good signature")
        return found

    def _verdict(self, certificate: Certificate, valid: Valid) -> Verified:
        if valid.primary != certificate.fingerprint:
            raise InvalidInputError(BAD[b"NO_PUBKEY"])
        key = certificate.key(valid.key)
        if key is None:
            raise InvalidInputError(BAD[b"NO_PUBKEY"])
        if valid.kind != b"00":
            raise InvalidInputError("the signature's class is not 0x00, of a binary document")
        if valid.hash_algorithm not in HASHES:
            raise InvalidInputError(ERRORS_IN_SIGNATURE[b"5"])
        if valid.created > self._reactor.seconds() + FUTURE_SECONDS:
            raise InvalidInputError(
                "the signature is dated in the future: is the signer's clock right?"
            )
        weak = certificates.weakness(key)
        if weak:
            raise InvalidInputError(f"the key that made the signature is too weak: {weak}")
        return Verified(fingerprint=valid.primary, key_fingerprint=valid.key, created=valid.created)

    async def _why_not(self, certificate: Certificate, state: bytes) -> str:
        """Whether it is the primary key or a subkey that has expired or is revoked."""
        primary = (await self._list(certificate)).keys[0]
        which = "the signer's key" if primary.state == state else "the subkey that signed"
        return f"{which} {STATE_NAMES[state]}"

    async def minimal(self, certificate: Certificate) -> tuple[Certificate, str]:
        """An uploaded key as it is stored, and the armored text of it: reduced to what its owner
        signed, without expired or superseded self-signatures.

        :raises InvalidInputError: for a key that cannot sign, or is too weak for it.
        :raises UnavailableError: when gpg gave no answer that can be relied on.
        """
        _refuse_weak(certificate.keys[0])
        _refuse_future(certificate, "the key")
        answer = await self._runner.run(
            ["--import-options", "import-export,import-minimal,self-sigs-only", "--import"],
            keyring=b"",
            feed={TEXT: certificate.packets},
        )
        lines = status(answer)
        if not answer.output:
            if answer.code is not None and any(line[0] == b"IMPORT_RES" for line in lines):
                raise InvalidInputError("the key has no user id that is signed by the key itself")
            raise unreliable(answer)
        if answer.code != 0:
            raise unreliable(answer)
        reduced = certificates.parse(answer.output)
        if reduced.fingerprint != certificate.fingerprint:
            raise unreliable(answer)
        _refuse_unusable(reduced, await self._list(reduced))
        return reduced, certificates.armor(reduced.packets)

    async def _list(self, certificate: Certificate) -> _Listing:
        answer = await self._runner.run(
            ["--list-keys", "--with-subkey-fingerprint"], keyring=certificate.packets, feed={}
        )
        listing = _listing(answer.output)
        if answer.code != 0 or not listing.keys:
            raise unreliable(answer)
        return listing


@dataclass(frozen=True, kw_only=True)
class _ListedKey:
    """What gpg says of a key: its state, a letter, and what it may be used for, letters."""

    fingerprint: str
    state: bytes
    uses: bytes

    @property
    def signs(self) -> bool:
        return b"s" in self.uses


@dataclass(frozen=True, kw_only=True)
class _Listing:
    keys: list[_ListedKey]
    """The primary key, then the subkeys."""
    user_states: list[bytes]


def _listing(output: bytes) -> _Listing:
    keys: list[_ListedKey] = []
    user_states = []
    state = uses = b""
    for line in output.split(b"\n"):
        fields = line.split(b":")
        if fields[0] in (b"pub", b"sub") and len(fields) > 11:
            state, uses = fields[1], fields[11]
        elif fields[0] == b"fpr" and len(fields) > 9:
            fingerprint = fields[9].decode("ascii", "replace")
            keys.append(_ListedKey(fingerprint=fingerprint, state=state, uses=uses))
        elif fields[0] == b"uid" and len(fields) > 1:
            user_states.append(fields[1])
    return _Listing(keys=keys, user_states=user_states)


def _refuse_future(certificate: Certificate, which: str) -> None:
    """gpg does not use a key before its date, by the system's clock, and gives other reasons.

    :raises InvalidInputError: for such a key.
    """
    if certificate.keys[0].created > time.time():
        raise InvalidInputError(f"{which} is dated in the future: is its owner's clock right?")


def _refuse_weak(key: Key) -> None:
    """:raises InvalidInputError: when the key is too weak to sign."""
    weak = certificates.weakness(key)
    if weak:
        which = "key" if key.primary else f"signing subkey {key.fingerprint}"
        raise InvalidInputError(f"the {which} is too weak: {weak}")


def _refuse_unusable(certificate: Certificate, listing: _Listing) -> None:
    """:raises InvalidInputError: when the key cannot sign, or is too weak for it."""
    primary = listing.keys[0]
    if primary.state in (b"e", b"r"):
        raise InvalidInputError(f"the key {STATE_NAMES[primary.state]}")
    if not any(state not in STATE_NAMES for state in listing.user_states):
        raise InvalidInputError("the key has no user id that is valid")
    signing = [key for key in listing.keys if key.signs]
    for listed in signing:
        key = certificate.key(listed.fingerprint)
        if key is not None:
            _refuse_weak(key)
    if not signing:
        raise InvalidInputError("the key cannot sign: it has no key or subkey for signing")
    if all(key.state in STATE_NAMES for key in signing):
        raise InvalidInputError(
            f"the key cannot sign: its signing subkey {STATE_NAMES[signing[0].state]}"
        )
