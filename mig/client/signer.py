"""Actions that are built, signed and checked by the gpg of the user.

gpg runs in a thread, so it never stops the reactor; its agent asks for passphrases. Programs
without a reactor use :meth:`Signer.sign_in_this_thread` and the like.
"""

from __future__ import annotations

import json
import tempfile
import time
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, Self

import gnupg
import msgspec
from twisted.internet.threads import deferToThread

from mig.client.errors import MIGClientError
from mig.client.records import JsonValue
from mig.errors import InvalidInputError
from mig.signing.canonical import (
    Operation,
    Signable,
    SignedTime,
    build_signed_texts,
    encode_operations,
)
from mig.values import RFC3339_PATTERN, parse_duration, parse_json

CLOCK_TOLERANCE_SECONDS: Final = 60
"""How long ago an action becomes valid, since the clocks of scheduler and agents differ."""

_SYNTAX_VERSION: Final = 2


class InvalidActionError(MIGClientError, ValueError):
    """The action has something that cannot be signed; the message names it."""


class SigningError(MIGClientError):
    """gpg did not sign, or could not check a signature; the message is its own."""


class VerifiedSignature(NamedTuple):
    """A good signature of an action.

    ``fingerprint`` is that of the key, and ``user`` its first user id. ``form`` says which of the
    two texts was signed: ``unix`` or ``gotime``.
    """

    fingerprint: str
    user: str
    form: str


class Action(msgspec.Struct, kw_only=True, frozen=True):
    """An action as it is submitted, with the names of its document.

    Times are RFC 3339 texts, so that what is sent is what was signed.
    """

    name: str
    target: str
    description: Mapping[str, JsonValue] = {}
    threat: Mapping[str, JsonValue] = {}
    validfrom: str
    expireafter: str
    operations: Sequence[Mapping[str, JsonValue]]
    pgpsignatures: Sequence[str] = ()
    syntaxversion: int = _SYNTAX_VERSION

    @classmethod
    def build(
        cls,
        name: str,
        target: str,
        operations: Sequence[Mapping[str, JsonValue]],
        expires: str | timedelta = "1h",
        *,
        description: Mapping[str, JsonValue] | None = None,
        threat: Mapping[str, JsonValue] | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> Self:
        """Return a new action without a signature.

        It is valid from one minute ago: :data:`CLOCK_TOLERANCE_SECONDS`.

        :param target: a condition in SQL on agents, such as ``os = 'linux'``.
        :param operations: each with ``module`` and ``parameters``.
        :param expires: how long it is valid from now on, such as ``90m`` or ``2d``.
        :raises InvalidActionError: when it could not be accepted.
        """
        validfrom, expireafter = make_dates(expires, wall_clock)
        action = cls(
            name=name,
            target=target,
            description=description or {},
            threat=threat or {},
            validfrom=validfrom,
            expireafter=expireafter,
            operations=operations,
        )
        return cls.parse(action.to_json())

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the action in a JSON text, signed or not.

        :raises InvalidActionError: when it is none, or when it cannot be signed: its numbers, for
            example, must be the same for each program.
        """
        try:
            action = msgspec.convert(parse_json(text, "the action"), cls)
            action._list_operations()
        except (InvalidInputError, msgspec.ValidationError) as reason:
            raise InvalidActionError(str(reason)) from None
        for field in ("name", "target"):
            if not getattr(action, field).strip():
                raise InvalidActionError(f"{field} must not be empty")
        for field in ("validfrom", "expireafter"):
            if not RFC3339_PATTERN.fullmatch(getattr(action, field)):
                raise InvalidActionError(f"{field} must be an RFC 3339 date")
        if not action.operations:
            raise InvalidActionError("operations must not be empty")
        return action

    def to_json(self) -> str:
        """Return the action as JSON, as :meth:`mig.client.MIGClient.create_action` takes it."""
        try:
            return json.dumps(msgspec.to_builtins(self), allow_nan=False)
        except (TypeError, ValueError) as reason:
            raise InvalidActionError(f"the action is not JSON: {reason}") from None

    @property
    def signed_text(self) -> bytes:
        """The text that is signed: the newer one of the two."""
        return self._build_texts()[0][1]

    async def sign(self, *signers: Signer) -> Self:
        """Return the action with the signatures of ``signers`` after those that it has.

        :raises SigningError: when gpg does not sign.
        """
        return await deferToThread(self.sign_in_this_thread, *signers)

    def sign_in_this_thread(self, *signers: Signer) -> Self:
        """Return the same as :meth:`sign`, and wait for gpg.

        :raises SigningError: when gpg does not sign.
        """
        text = self.signed_text
        made = [signer.sign_in_this_thread(text) for signer in signers]
        return msgspec.structs.replace(self, pgpsignatures=[*self.pgpsignatures, *made])

    async def verify(self, signer: Signer) -> list[VerifiedSignature]:
        """Return the signatures, each checked with the keys of ``signer``'s keyring.

        :raises SigningError: when one of them is not good, or its key is not known.
        """
        return await deferToThread(self.verify_in_this_thread, signer)

    def verify_in_this_thread(self, signer: Signer) -> list[VerifiedSignature]:
        """Return the same as :meth:`verify`, and wait for gpg.

        :raises SigningError: when one of them is not good, or its key is not known.
        """
        texts = self._build_texts()
        return [signer.verify_in_this_thread(each, texts) for each in self.pgpsignatures]

    def _list_operations(self) -> list[Operation]:
        found = [msgspec.convert(each, _Operation) for each in self.operations]
        return [Operation(**msgspec.structs.asdict(each)) for each in found]

    def _build_texts(self) -> list[tuple[str, bytes]]:
        signable = Signable(
            name=self.name,
            target=self.target,
            validfrom=SignedTime(text=self.validfrom),
            expireafter=SignedTime(text=self.expireafter),
            operations=encode_operations(self._list_operations()),
        )
        return [(text.form, text.text) for text in build_signed_texts(signable)]


def make_dates(expires: str | timedelta, wall_clock: Callable[[], float]) -> tuple[str, str]:
    """Return ``validfrom`` and ``expireafter`` of an action that is valid from one minute ago.

    :param expires: how long it is valid from now on, such as ``90m`` or ``2d``.
    :raises InvalidActionError: when ``expires`` is not a duration.
    """
    now = datetime.fromtimestamp(int(wall_clock()), UTC)
    try:
        end = now + (parse_duration(expires) if isinstance(expires, str) else expires)
    except OverflowError:
        raise InvalidActionError("expires must be before the year 10000") from None
    except ValueError as reason:
        raise InvalidActionError(f"expires must be {reason}") from None
    start = now - timedelta(seconds=CLOCK_TOLERANCE_SECONDS)
    return _format_time(start), _format_time(end)


class _Operation(msgspec.Struct):
    module: str
    parameters: JsonValue = None
    is_compressed: bool = False
    want_compressed: bool = False


class Signer:
    """A key in the keyring of a user; also the credentials of a :class:`mig.client.MIGClient`.

    :param key_id: the fingerprint or key id; gpg's default key without it.
    :param home: gpg's home folder, if it is not the user's own.
    :raises SigningError: when gpg is not installed.
    """

    def __init__(self, key_id: str | None = None, *, home: str | None = None) -> None:
        if key_id is not None and not _is_hexadecimal(key_id):
            raise SigningError(f"a key id has hexadecimal digits, at least 16, not {key_id!r}")
        self._key_id = key_id
        try:
            self._gpg = gnupg.GPG(gnupghome=home)
        except (OSError, ValueError) as reason:
            raise SigningError(f"gpg cannot be used: {reason}") from reason
        self._gpg.encoding = "utf-8"

    async def sign(self, text: bytes) -> str:
        """Return the signature over ``text`` in one line.

        :raises SigningError: when gpg does not sign.
        """
        return await deferToThread(self.sign_in_this_thread, text)

    def sign_in_this_thread(self, text: bytes) -> str:
        """Return the same as :meth:`sign`, and wait for gpg.

        :raises SigningError: when gpg does not sign.
        """
        # not python-gnupg's keyid, which is --default-key: where it is missing, gpg takes another
        chosen = ["--local-user", self._key_id] if self._key_id else []
        signed = self._gpg.sign(text, detach=True, extra_args=chosen)
        if not signed.data:
            raise SigningError(f"gpg did not sign: {_describe(signed)}")
        return _join_armor(signed.data.decode())

    def verify_in_this_thread(
        self, signature: str, texts: Sequence[tuple[str, bytes]]
    ) -> VerifiedSignature:
        """Return a signature that covers one of ``texts``, pairs of a form and a text.

        :raises SigningError: when it is not good, or its key is not known.
        """
        try:
            packets = b64decode(signature[:-5], validate=True)
        except ValueError:
            raise SigningError("a signature is not base64") from None
        with tempfile.NamedTemporaryFile(prefix="mig-signature-") as file:
            file.write(packets)
            file.flush()
            for form, text in texts:
                found = self._gpg.verify_data(file.name, text)
                if found.valid:
                    fingerprint = found.pubkey_fingerprint or found.fingerprint or ""
                    return VerifiedSignature(fingerprint, found.username or "", form)
        raise SigningError(f"a signature is not good: {_describe(found)}")


def _is_hexadecimal(key_id: str) -> bool:
    return len(key_id) >= 16 and not key_id.lower().strip("0123456789abcdef")


def _format_time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _join_armor(armor: str) -> str:
    """Return the base64 of an armor and its checksum in one line, as MIG writes signatures."""
    lines = armor.strip().splitlines()
    return "".join(lines[lines.index("") + 1 : -1])


def _describe(result: gnupg.Sign | gnupg.Verify) -> str:
    lines = [line for line in result.stderr.splitlines() if not line.startswith("[GNUPG:]")]
    return " ".join(lines[-2:]) or str(result.status)
