"""Submissions of actions: every check of a field.

:func:`parse_signatures` checks what is cheap, and :func:`parse_submission` makes a
:class:`Submission` of the rest (docs/decisions/0030). Both may run in another process, so a
submission is plain data. Then :mod:`mig.signing` verifies the signatures, and
:meth:`Submission.check_signed_text` checks the fields against the text that was signed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from whenever import OffsetDateTime

from mig.errors import InvalidInputError
from mig.openpgp.packet import Signature, parse_signature
from mig.signing.canonical import (
    GOTIME,
    SEPARATORS,
    Operation,
    Signable,
    SignedText,
    SignedTime,
    encode_fields,
    encode_go_json,
    encode_operations,
)
from mig.values import (
    MAX_EXACT_INTEGER,
    RFC3339_PATTERN,
    parse_plain_text,
    to_shortest_decimal,
)

MAX_TEXT_LENGTH: Final = 2048
"""Characters of an action's name or target; the columns hold as many."""
SYNTAX_VERSION: Final = 2

MAX_DEPTH: Final = 64
"""Levels of arrays and objects in the parameters of an operation."""

NEW_STATUS: Final = "init"
# The schedulers' own values for an action that has not started and one that has not finished.
NOT_STARTED: Final = "0009-01-11T11:11:11.000000011Z"  # 011 is 9: octal, in the Go programs
NOT_FINISHED: Final = "9998-01-11T11:11:11.000000011Z"

_ACTION_MEMBERS: Final = (
    *("id", "name", "target", "description", "threat", "validfrom", "expireafter", "operations"),
    *("pgpsignatures", "investigators", "status", "starttime", "finishtime", "lastupdatetime"),
    *("counters", "syntaxversion"),
)
_OPERATION_MEMBERS: Final = ("module", "parameters", "is_compressed", "want_compressed")
_Types = Mapping[str, type | tuple[type, ...]]
_DESCRIPTION_TYPES: Final[_Types] = {
    "author": str,
    "email": str,
    "url": str,
    "revision": (int, float),
}
_THREAT_TYPES: Final[_Types] = {"ref": str, "level": str, "family": str, "type": str}


@dataclass(frozen=True, kw_only=True)
class Submission:
    """An action and its signatures, as texts: the values that were parsed are not kept.

    No signature covers ``description`` and ``threat``, which are JSON.
    """

    signable: Signable
    identity: bytes
    """That of ``signable``."""
    description: str
    threat: str
    pgpsignatures: tuple[str, ...]
    signatures: tuple[Signature, ...]
    """``pgpsignatures``, parsed."""

    def check_signed_text(self, text: SignedText, *, keeps_nanoseconds: bool) -> None:
        """Refuse an action if ``text``, which was signed, could also be that of another action.

        :param keeps_nanoseconds: whether the scheduler gets the times as they were signed.
        :raises InvalidInputError: naming the field.
        """
        action = self.signable
        for field, content in (("name", action.name), ("target", action.target)):
            if SEPARATORS[text.form][field] in content:
                raise InvalidInputError(
                    f"{field} contains the separator that ends it in the signed text: the same"
                    " signature would cover another action",
                    field,
                )
        if keeps_nanoseconds or text.form != GOTIME:
            return  # the newer text contains whole seconds in UTC, which every column can hold
        for field, time in (("validfrom", action.validfrom), ("expireafter", action.expireafter)):
            if not time.fits_microseconds:
                raise InvalidInputError(
                    f"{field} must be in UTC and not finer than a microsecond: the hand-off through"
                    " the database would lose what was signed",
                    field,
                )

    def check_not_expired(self, now: float) -> None:
        """Refuse an action that is no longer valid at ``now``, in Unix seconds.

        :raises InvalidInputError: for such an action.
        """
        if self.signable.expireafter.unix_seconds <= now:
            raise InvalidInputError("expireafter must be in the future", "expireafter")

    def encode_document(self, action_id: int) -> tuple[str, str]:
        """Return the document for the spool of a scheduler of 2014, built from what was signed.

        It is in two parts: what comes before the operations, and what follows them.
        """
        action = self.signable
        head = encode_fields(
            {
                "id": action_id,
                "name": action.name,
                "target": action.target,
                "validfrom": action.validfrom.text,
                "expireafter": action.expireafter.text,
                "status": NEW_STATUS,
                "starttime": NOT_STARTED,
                "finishtime": NOT_FINISHED,
                "lastupdatetime": NOT_STARTED,
            }
        )
        tail = encode_fields(
            {
                "pgpsignatures": self.pgpsignatures,
                "counters": {},
                "syntaxversion": SYNTAX_VERSION,
            }
        )
        unsigned = f'"description":{self.description},"threat":{self.threat}'
        return f'{{{head},{unsigned},"operations":', f",{tail}}}\n"


def parse_signatures(value: object, max_signatures: int) -> tuple[Signature, ...]:
    """Parse the signatures of a submission: all of it that is cheap to check.

    :param value: comes from :func:`mig.values.parse_json`.
    :raises InvalidInputError: naming the first field that is not accepted.
    """
    members = _check_action_members(value)
    texts = _parse_signature_texts(members.get("pgpsignatures"), max_signatures)
    return tuple(_parse_signature_field(n, text) for n, text in enumerate(texts))


def parse_submission(
    value: object, signatures: tuple[Signature, ...], *, max_operations_bytes: int
) -> Submission:
    """Parse a submission, except whether it has expired.

    The members that the service itself sets (id, status, times, counters) are ignored.

    :param value: comes from :func:`mig.values.parse_json`.
    :param signatures: what :func:`parse_signatures` has returned for the same value.
    :param max_operations_bytes: how long the operations may be as they are signed.
    :raises InvalidInputError: naming the first field that is not accepted.
    """
    members = _check_action_members(value)
    _check_syntax(members.get("syntaxversion"))
    name, target = _parse_text(members, "name"), _parse_text(members, "target")
    validfrom = parse_signed_time("validfrom", members.get("validfrom"))
    expireafter = parse_signed_time("expireafter", members.get("expireafter"))
    _check_order(validfrom, expireafter)
    description = _parse_unsigned(members, "description", _DESCRIPTION_TYPES)
    threat = _parse_unsigned(members, "threat", _THREAT_TYPES)
    operations = encode_operations(parse_operations(members.get("operations")))
    if len(operations) > max_operations_bytes:
        raise InvalidInputError(
            f"operations must have at most {max_operations_bytes} bytes as they are signed, where"
            " each < is written as \\u003c ([limits] action_body_bytes)",
            "operations",
        )
    signable = Signable(
        name=name,
        target=target,
        validfrom=validfrom,
        expireafter=expireafter,
        operations=operations,
    )
    return Submission(
        signable=signable,
        identity=signable.identity,
        description=description,
        threat=threat,
        pgpsignatures=tuple(members["pgpsignatures"]),
        signatures=signatures,
    )


def _check_action_members(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInputError("the action must be a JSON object", "action")
    _check_members(value, _ACTION_MEMBERS, "")
    return value


def _check_members(value: Mapping[str, object], accepted: Sequence[str], where: str) -> None:
    """Refuse an object with members other than the ``accepted`` ones.

    Schedulers ignore the case of names, so a second ``Module`` would replace the signed one.
    """
    for name in value:
        if name not in accepted:
            place = f"{where}.{name}" if where else name
            escaped = ascii(name[:80])[1:-1]  # without the quotes
            raise InvalidInputError(
                f"{where or 'the action'} has an unknown member {escaped}; known are"
                f" {', '.join(accepted)}",
                place,
            )


def _parse_text(value: Mapping[str, object], name: str) -> str:
    text = parse_plain_text(value.get(name), name)
    if not text.strip():
        raise InvalidInputError(f"{name} must not be empty", name)
    if len(text) > MAX_TEXT_LENGTH:
        raise InvalidInputError(f"{name} must have at most {MAX_TEXT_LENGTH} characters", name)
    return text


def parse_signed_time(where: str, text: object) -> SignedTime:
    """Parse a time of an action: RFC 3339 with seconds, at most nine fraction digits, an offset.

    ``-00:00`` is not accepted: it means that the offset is unknown (RFC 3339, 4.3).

    :raises InvalidInputError: naming the field ``where``, for anything else.
    """
    if isinstance(text, str) and RFC3339_PATTERN.fullmatch(text) and not text.endswith("-00:00"):
        try:
            OffsetDateTime.parse_iso(text).to_instant()
        except ValueError:
            pass  # no such day or hour, or outside the years 1 to 9999
        else:
            # Go prints both as UTC only on a machine whose zone is UTC: docs/decisions/0030
            text = text.removesuffix("+00:00") + "Z" if text.endswith("+00:00") else text
            return SignedTime(text=text)
    raise InvalidInputError(
        f"{where} must be an RFC 3339 date, for example 2014-05-30T00:00:00-04:00", where
    )


def parse_operations(value: object) -> tuple[Operation, ...]:
    """Parse the operations of an action.

    :raises InvalidInputError: naming the field, when ``value`` is not an array of at least one
        operation, or an operation has members that no signature covers.
    """
    if not isinstance(value, list) or not value:
        raise InvalidInputError(
            "operations must be an array of at least one operation", "operations"
        )
    return tuple(_parse_operation(one, f"operations[{n}]") for n, one in enumerate(value))


def _parse_operation(value: object, where: str) -> Operation:
    if not isinstance(value, dict):
        raise InvalidInputError(f"{where} must be an object", where)
    _check_members(value, _OPERATION_MEMBERS, where)
    module = parse_plain_text(value.get("module"), f"{where}.module")
    if not module.strip():
        raise InvalidInputError(f"{where}.module must not be empty", f"{where}.module")
    parameters = value.get("parameters")
    check_signable_json(parameters, f"{where}.parameters")
    return Operation(
        module=module,
        parameters=parameters,
        is_compressed=_parse_flag(value, "is_compressed", where),
        want_compressed=_parse_flag(value, "want_compressed", where),
    )


def _parse_flag(operation: Mapping[str, object], name: str, where: str) -> bool:
    flag = operation.get(name, False)
    if not isinstance(flag, bool):
        raise InvalidInputError(f"{where}.{name} must be true or false", f"{where}.{name}")
    return flag


def check_signable_json(value: object, where: str, depth: int = MAX_DEPTH) -> None:
    """Refuse a value of :func:`mig.values.parse_json` that Go would not encode unchanged.

    :raises InvalidInputError: naming ``where``, for NUL or half a surrogate pair in a text, for an
        integer that float64 does not represent exactly, and for more than ``depth`` levels.
    """
    if isinstance(value, str):
        _check_plain_text(value, where)
    elif isinstance(value, int):  # including bool, which is always exact
        _check_exact(value, where)
    elif isinstance(value, list | dict):
        if not depth:
            raise InvalidInputError(f"{where} is nested deeper than {MAX_DEPTH} levels", where)
        if isinstance(value, dict):
            for name in value:
                _check_plain_text(name, where)
            # in the order of the signed text, since only the first fault is reported
            value = [value[name] for name in sorted(value, key=str.encode)]
        for content in value:
            check_signable_json(content, where, depth - 1)


def _check_plain_text(text: str, where: str) -> None:
    if not text.isprintable():  # fast, and true of almost every text
        parse_plain_text(text, where)


def _check_exact(number: int, where: str) -> None:
    """Refuse a whole number that Go would round.

    Go writes 2**55 as 36028797018963970, which is not exact but is accepted again
    (docs/decisions/0030).
    """
    if abs(number) <= MAX_EXACT_INTEGER:
        return
    try:
        rounded = float(number)
    except OverflowError:
        rounded = 0.0
    if rounded != number and to_shortest_decimal(rounded) != number:
        raise InvalidInputError(
            f"{where} contains {str(number)[:40]}, which float64 does not represent exactly:"
            " it would become another number than the one that was signed",
            where,
        )


def _check_syntax(version: object) -> None:
    if type(version) is not int or version != SYNTAX_VERSION:
        raise InvalidInputError(f"syntaxversion must be {SYNTAX_VERSION}", "syntaxversion")


def _check_order(begin: SignedTime, end: SignedTime) -> None:
    if (begin.unix_seconds, begin.nanosecond) >= (end.unix_seconds, end.nanosecond):
        raise InvalidInputError("expireafter must be later than validfrom", "expireafter")


def _parse_signature_texts(value: object, max_signatures: int) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise InvalidInputError("pgpsignatures must be an array of signatures", "pgpsignatures")
    if len(value) > max_signatures:
        raise InvalidInputError(
            f"pgpsignatures must have at most {max_signatures} signatures", "pgpsignatures"
        )
    texts = tuple(parse_plain_text(text, f"pgpsignatures[{n}]") for n, text in enumerate(value))
    for n, text in enumerate(texts):
        if text in texts[:n]:
            where = f"pgpsignatures[{n}]"
            raise InvalidInputError(f"{where} repeats an earlier signature", where)
    return texts


def _parse_signature_field(n: int, text: str) -> Signature:
    where = f"pgpsignatures[{n}]"
    try:
        return parse_signature(text)
    except InvalidInputError as reason:
        raise InvalidInputError(f"{where}: {reason}", where) from None


def _parse_unsigned(value: Mapping[str, object], name: str, types: _Types) -> str:
    """Return a member of the action that no signature covers: an object of known members."""
    members = value.get(name)
    members = {} if members is None else members
    if not isinstance(members, dict):
        raise InvalidInputError(f"{name} must be an object", name)
    _check_members(members, tuple(types), name)
    for member, content in members.items():
        kind = types[member]
        if not isinstance(content, kind) or isinstance(content, bool):
            what = "a string" if kind is str else "a number"
            raise InvalidInputError(f"{name}.{member} must be {what}", f"{name}.{member}")
    check_signable_json(members, name)
    return encode_go_json(members)
