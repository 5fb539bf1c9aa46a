"""The lines that gpg writes to its status pipe about the signatures that it has checked.

They are parsed as bytes and end with a line feed alone: a user id can contain any other character
that ``str.splitlines`` takes for the end of a line. GnuPG's doc/DETAILS describes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from mig.errors import BadSignatureError, InvalidInputError
from mig.signing.gpg.process import GpgResult, make_unreliable_error

StatusLines = Sequence[Sequence[bytes]]
"""The words of each status line."""

STATUS_PREFIX: Final = b"[GNUPG:] "
REQUIRED_ONCE: Final = (b"NEWSIG", b"GOODSIG", b"VALIDSIG")
BAD_SIGNATURE_REASONS: Final = {
    b"BADSIG": "the signature is bad: it was made over another text, or has been changed",
    b"EXPSIG": "the signature has expired",
    b"NO_PUBKEY": "the signature is not by this key",
    b"NODATA": "gpg finds no signature in it",
    b"UNEXPECTED": "gpg finds something other than a signature in it",
}
# By the error code of ERRSIG, one of libgpg-error.
SIGNATURE_ERRORS: Final = {
    b"4": "gpg does not know the algorithm of the signature",
    b"5": "the digest of the signature is weak: SHA-224, SHA-256, SHA-384 or SHA-512 is accepted",
    b"6": "the key that made the signature may not be used for signing: it is not bound to the key",
    b"9": BAD_SIGNATURE_REASONS[b"NO_PUBKEY"],
    b"39": "the signature is dated before the key that made it",
    b"125": "the key that made the signature may not be used for signing",
}
UNREADABLE_SIGNATURE: Final = "gpg cannot check the signature: it or its key is damaged"
KEY_STATES: Final = {b"EXPKEYSIG": b"e", b"REVKEYSIG": b"r"}
"""The lines about a good signature by a key that is not valid, and the state of the key."""

_DOUBTFUL_WORDS: Final = (b"ERRSIG", *BAD_SIGNATURE_REASONS, *KEY_STATES)


@dataclass(frozen=True, kw_only=True)
class ValidSignature:
    """The contents of a VALIDSIG line."""

    key_fingerprint: str
    created: int
    hash_algorithm: int
    signature_class: bytes
    primary_fingerprint: str


def parse_status_lines(answer: GpgResult) -> StatusLines:
    """Return the status lines of ``answer``.

    :raises UnavailableError: when gpg was killed, or a line is malformed.
    """
    *lines, incomplete = answer.status.split(b"\n")
    if (
        answer.code is None
        or incomplete
        or any(not line.startswith(STATUS_PREFIX) for line in lines)
    ):
        raise make_unreliable_error(answer)
    return [line.removeprefix(STATUS_PREFIX).split(b" ") for line in lines]


def find_key_state(lines: StatusLines) -> bytes | None:
    """Return the state of the key, if that is why a good signature is not accepted."""
    return next((KEY_STATES[line[0]] for line in lines if line[0] in KEY_STATES), None)


def refuse_bad_signature(lines: StatusLines) -> None:
    """Refuse a signature that gpg calls bad.

    :raises BadSignatureError: when it was made over another text.
    :raises InvalidInputError: for any other reason.
    """
    for line in lines:
        if line[0] == b"ERRSIG":
            # ERRSIG <keyid> <pkalgo> <hashalgo> <class> <time> <code> <fingerprint>
            code = line[6] if len(line) > 6 else b""
            raise InvalidInputError(SIGNATURE_ERRORS.get(code, UNREADABLE_SIGNATURE))
    for line in lines:
        if line[0] in BAD_SIGNATURE_REASONS:
            kind = BadSignatureError if line[0] == b"BADSIG" else InvalidInputError
            raise kind(BAD_SIGNATURE_REASONS[line[0]])


def find_valid_signature(answer: GpgResult, lines: StatusLines) -> ValidSignature | None:
    """Return the one signature that ``lines`` of ``answer`` call good.

    ``None`` means that there is not exactly one, or that a line raises a doubt.

    :raises UnavailableError: when the line about it is malformed.
    """
    words = Counter(line[0] for line in lines)
    if any(words[word] != 1 for word in REQUIRED_ONCE) or any(
        words[word] for word in _DOUBTFUL_WORDS
    ):
        return None
    try:
        [line] = [line for line in lines if line[0] == b"VALIDSIG"]
        _, key, _, created, _, _, _, _, hash_algorithm, signature_class, primary = line
        return ValidSignature(
            key_fingerprint=key.decode("ascii"),
            created=int(created),
            hash_algorithm=int(hash_algorithm),
            signature_class=signature_class,
            primary_fingerprint=primary.decode("ascii"),
        )
    except ValueError:
        raise make_unreliable_error(answer) from None


def split_by_file(lines: StatusLines, names: Sequence[bytes]) -> Iterator[StatusLines]:
    """Yield the lines about each of the files ``names``, which gpg checks in this order.

    :raises ValueError: when ``lines`` are not about exactly these files, in this order.
    """
    remaining = iter(lines)
    for name in names:
        if list(next(remaining, ())) != [b"FILE_START", b"1", name]:
            raise ValueError("gpg does not begin with the next file")
        about: list[Sequence[bytes]] = []
        for line in remaining:
            if line[0] == b"FILE_DONE":
                break
            about.append(line)
        else:
            raise ValueError("gpg does not end the file")
        yield about
    if next(remaining, None) is not None:
        raise ValueError("gpg says something after the last file")
