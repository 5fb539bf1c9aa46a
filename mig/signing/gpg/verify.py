"""Verification of signatures, and checks of uploaded keys, by gpg.

A verdict is made of gpg's status lines, which come as bytes on a pipe of their own, and of its exit
code. A run takes about 3 ms of a core; some signatures share one (:mod:`mig.signing.gpg.batch`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from twisted.internet.defer import Deferred

from mig.errors import InvalidInputError
from mig.fair_queue import Flow
from mig.limits import Limits
from mig.openpgp import certificate as certificates
from mig.openpgp.certificate import Certificate, Key
from mig.openpgp.packet import ACCEPTED_HASHES, Signature
from mig.reactor import Reactor, WallClock
from mig.signing.gpg.batch import BatchVerifier
from mig.signing.gpg.process import (
    TEXT_FD,
    GpgResult,
    GpgRun,
    GpgRunner,
    make_unreliable_error,
)
from mig.signing.gpg.status import (
    BAD_SIGNATURE_REASONS,
    SIGNATURE_ERRORS,
    ValidSignature,
    find_key_state,
    find_valid_signature,
    parse_status_lines,
    refuse_bad_signature,
)

MAX_CLOCK_SKEW_SECONDS: Final = 300
"""How far a signature may be dated ahead of our clock."""
_KEY_CHECKS: Final = b""
"""What checks of uploaded keys share, where those of signatures share the signer's certificate."""

# By the letter in the field "validity" of gpg's listing (GnuPG's doc/DETAILS).
KEY_STATE_NAMES: Final = {
    b"e": "has expired",
    b"r": "is revoked",
    b"i": "is invalid",
    b"d": "is disabled",
}


@dataclass(frozen=True, kw_only=True)
class VerifiedSignature:
    """A signature that was verified."""

    fingerprint: str
    """The primary key of the signer's certificate."""
    key_fingerprint: str
    """The primary key or subkey that made the signature."""
    created: int
    """Unix seconds."""


class Gpg:
    """Checks signatures and keys.

    What waits for gpg is shared fairly: between certificates, and for each between the clients
    that name it (``client`` below). A client is any text, such as a request's client group.

    :param wall_clock: the time of day, to refuse keys and signatures that are dated in the future.
    :param program: the name or path of gpg.
    :param limits: how many gpg processes run, how many checks wait for one, and how long.
    """

    def __init__(
        self,
        reactor: Reactor,
        wall_clock: WallClock,
        *,
        program: str = "gpg",
        limits: Limits | None = None,
    ) -> None:
        self._reactor = reactor
        self._wall_clock = wall_clock
        limits = limits or Limits()
        self.runner = GpgRunner(reactor, program=program, limits=limits)
        self._batch_verifier = BatchVerifier(
            self.runner, self._read_verdict, max_size=limits.shared_signatures
        )

    def is_installed(self) -> bool:
        """Return whether there is a program to run; it may be installed at any time."""
        return self.runner.is_installed()

    def stop(self) -> Deferred[None]:
        """Kill every process and refuse new checks; the result fires when no process is left."""
        return self.runner.stop()

    async def verify(
        self, certificate: Certificate, signature: Signature, text: bytes, client: str = ""
    ) -> VerifiedSignature:
        """Verify that a good key of ``certificate`` made ``signature`` over ``text``.

        :raises BadSignatureError: when it was made over another text.
        :raises InvalidInputError: when it is not accepted for any other reason.
        :raises UnavailableError: when gpg gave no reliable answer.
        """
        self._refuse_future_key(certificate, "the key that made the signature")
        check = Deferred.fromCoroutine(
            self._batch_verifier.verify(certificate, signature, text, client)
        )
        check.addTimeout(
            self.runner.timeout_seconds, self._reactor, self.runner.make_timeout_failure
        )
        return self._check_valid_signature(certificate, await check)

    async def _read_verdict(
        self, certificate: Certificate, answer: GpgResult, flow: Flow
    ) -> ValidSignature:
        """Return what a run for one signature says about it.

        :raises InvalidInputError: when it is bad.
        :raises UnavailableError: when the answer is not reliable.
        """
        lines = parse_status_lines(answer)
        state = find_key_state(lines)
        if state is not None:
            raise InvalidInputError(await self._explain_key_state(certificate, state, flow))
        refuse_bad_signature(lines)
        if answer.code != 0:
            raise make_unreliable_error(answer)
        found = find_valid_signature(answer, lines)
        if found is None:
            raise InvalidInputError("gpg does not report exactly one good signature")
        return found

    def _check_valid_signature(
        self, certificate: Certificate, valid: ValidSignature
    ) -> VerifiedSignature:
        # gpg.conf may add keyrings, so the verdict may be about another certificate
        if valid.primary_fingerprint != certificate.fingerprint:
            raise InvalidInputError(BAD_SIGNATURE_REASONS[b"NO_PUBKEY"])
        key = certificate.find_key(valid.key_fingerprint)
        if key is None:
            raise InvalidInputError(BAD_SIGNATURE_REASONS[b"NO_PUBKEY"])
        if valid.signature_class != b"00":
            raise InvalidInputError("the signature's class is not 0x00, of a binary document")
        if valid.hash_algorithm not in ACCEPTED_HASHES:
            raise InvalidInputError(SIGNATURE_ERRORS[b"5"])
        if valid.created > self._wall_clock() + MAX_CLOCK_SKEW_SECONDS:
            raise InvalidInputError(
                "the signature is dated in the future: is the signer's clock right?"
            )
        fault = certificates.find_fault(key)
        if fault:
            raise InvalidInputError(f"the key that made the signature {fault}")
        return VerifiedSignature(
            fingerprint=valid.primary_fingerprint,
            key_fingerprint=valid.key_fingerprint,
            created=valid.created,
        )

    def _refuse_future_key(self, certificate: Certificate, which: str) -> None:
        """Refuse a key that is dated in the future.

        gpg does not use such a key either, but gives other reasons.

        :raises InvalidInputError: for such a key.
        """
        if certificate.keys[0].created > self._wall_clock():
            raise InvalidInputError(f"{which} is dated in the future: is its owner's clock right?")

    async def _explain_key_state(self, certificate: Certificate, state: bytes, flow: Flow) -> str:
        """Return whether the primary key or a subkey has expired or is revoked, for a message."""
        primary = (await self._list_keys(certificate, flow)).keys[0]
        which = "the signer's key" if primary.state == state else "the subkey that signed"
        return f"{which} {KEY_STATE_NAMES[state]}"

    async def minimize_certificate(
        self, certificate: Certificate, client: str = ""
    ) -> tuple[Certificate, str]:
        """Reduce an uploaded key to the form in which it is stored; return it and its armor.

        What others signed, and expired or superseded self-signatures, are removed.

        :raises InvalidInputError: for a key that cannot sign, or is not accepted for signing.
        :raises UnavailableError: when gpg gave no reliable answer.
        """
        _refuse_faulty_key(certificate.keys[0])
        self._refuse_future_key(certificate, "the key")
        flow = (_KEY_CHECKS, client)
        answer = await self.runner.run(
            GpgRun(
                arguments=[
                    *("--import-options", "import-export,import-minimal,self-sigs-only"),
                    "--import",
                ],
                keyring=b"",
                inputs={TEXT_FD: certificate.packets},
            ),
            flow,
        )
        lines = parse_status_lines(answer)
        if not answer.output:
            # gpg imported, and nothing was left: IMPORT_RES counts what it did
            if answer.code is not None and any(line[0] == b"IMPORT_RES" for line in lines):
                raise InvalidInputError("the key has no user id that is signed by the key itself")
            raise make_unreliable_error(answer)
        if answer.code != 0:
            raise make_unreliable_error(answer)
        reduced = certificates.parse_binary(answer.output)
        if reduced.fingerprint != certificate.fingerprint:
            raise make_unreliable_error(answer)
        _refuse_unusable_key(reduced, await self._list_keys(reduced, flow))
        return reduced, certificates.encode_armor(reduced.packets)

    async def _list_keys(self, certificate: Certificate, flow: Flow) -> _KeyListing:
        answer = await self.runner.run(
            GpgRun(
                arguments=["--list-keys", "--with-subkey-fingerprint"],
                keyring=certificate.packets,
                inputs={},
            ),
            flow,
        )
        listing = _parse_listing(answer.output)
        if answer.code != 0 or not listing.keys:
            raise make_unreliable_error(answer)
        return listing


@dataclass(frozen=True, kw_only=True)
class _ListedKey:
    """A key in gpg's listing: the letter of its state, and the letters of its uses."""

    fingerprint: str
    state: bytes
    uses: bytes

    @property
    def can_sign(self) -> bool:
        """Whether the key may make signatures."""
        return b"s" in self.uses


@dataclass(frozen=True, kw_only=True)
class _KeyListing:
    keys: list[_ListedKey]
    """The primary key, then the subkeys."""
    user_states: list[bytes]


def _parse_listing(output: bytes) -> _KeyListing:
    """Parse the output of ``--list-keys --with-colons`` (GnuPG's doc/DETAILS)."""
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
    return _KeyListing(keys=keys, user_states=user_states)


def _refuse_faulty_key(key: Key) -> None:
    """Refuse a key that is not accepted for signing.

    :raises InvalidInputError: for such a key.
    """
    fault = certificates.find_fault(key)
    if fault:
        which = "key" if key.is_primary else f"signing subkey {key.fingerprint}"
        raise InvalidInputError(f"the {which} {fault}")


def _refuse_unusable_key(certificate: Certificate, listing: _KeyListing) -> None:
    """Refuse a certificate that cannot sign, or that can sign with a key that is not accepted.

    :raises InvalidInputError: for such a certificate.
    """
    primary = listing.keys[0]
    if primary.state in (b"e", b"r"):
        raise InvalidInputError(f"the key {KEY_STATE_NAMES[primary.state]}")
    if not any(state not in KEY_STATE_NAMES for state in listing.user_states):
        raise InvalidInputError("the key has no valid user id")
    signing = [key for key in listing.keys if key.can_sign]
    if not signing:
        raise InvalidInputError("the key cannot sign: it has no key or subkey for signing")
    usable = [key for key in signing if key.state not in KEY_STATE_NAMES]
    if not usable:
        raise InvalidInputError(
            f"the key cannot sign: its signing subkey {KEY_STATE_NAMES[signing[0].state]}"
        )
    # gpg refuses the signatures of the others, so their strength does not matter
    for listed in usable:
        key = certificate.find_key(listed.fingerprint)
        if key is not None:
            _refuse_faulty_key(key)
