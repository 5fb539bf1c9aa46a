"""A signed action as an investigator submits it: every check of its fields.

:func:`parse_submission` makes a :class:`Submission` of what a client sent. Nothing else about a
field is checked anywhere, but that a signature holds (:mod:`mig.signing`), which then decides what
:meth:`Submission.check_signed_text` has to look at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from whenever import OffsetDateTime

from mig.errors import InvalidInputError
from mig.openpgp.packet import Signature, parse_signature
from mig.signing.canonical import (
    GOTIME,
    MAX_EXACT_INTEGER,
    SEPARATORS,
    Json,
    Operation,
    Signable,
    SignedText,
    SignedTime,
    encode_fields,
)
from mig.values import RFC3339_PATTERN, parse_plain_text, to_shortest_decimal

MAX_TEXT_LENGTH: Final = 2048
MAX_SIGNATURES: Final = 20
SYNTAX_VERSION: Final = 2

MAX_DEPTH: Final = 64
"""Levels of arrays and objects in an operation."""

NEW_STATUS: Final = "init"
NOT_STARTED: Final = "0011-01-11T11:11:11.000000011Z"
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
    """An action and its signatures. Nobody signed *description* and *threat*."""

    signable: Signable
    description: Mapping[str, Json]
    threat: Mapping[str, Json]
    pgpsignatures: tuple[str, ...]
    signatures: tuple[Signature, ...]
    """The same, read."""

    def check_signed_text(self, text: SignedText, *, keeps_nanoseconds: bool) -> None:
        """Refuse an action that is not the only one of which *text*, which was signed, can be.

        :param keeps_nanoseconds: whether the times go on to the scheduler as they were signed.
        :raises InvalidInputError: naming the field.
        """
        action = self.signable
        for field, content in (("name", action.name), ("target", action.target)):
            if SEPARATORS[text.form][field] in content:
                raise InvalidInputError(
                    f"{field} holds the separator that ends it in the signed text: the same"
                    " signature would cover another action",
                    field,
                )
        if keeps_nanoseconds or text.form != GOTIME:
            return  # the newer text has whole seconds of UTC, which every column holds
        for field, time in (("validfrom", action.validfrom), ("expireafter", action.expireafter)):
            if not time.fits_microseconds:
                raise InvalidInputError(
                    f"{field} must be in UTC and not finer than a microsecond: the hand-off through"
                    " the database would lose what was signed",
                    field,
                )

    def encode_document(self, action_id: int) -> str:
        """Return what a scheduler of 2014 reads from its spool: built from what was signed."""
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
                "description": self.description,
                "threat": self.threat,
            }
        )
        tail = encode_fields(
            {
                "pgpsignatures": self.pgpsignatures,
                "counters": {},
                "syntaxversion": SYNTAX_VERSION,
            }
        )
        return f'{{{head},"operations":{action.operations_text},{tail}}}\n'


def parse_submission(value: object, *, now: float) -> Submission:
    """Return the submission in a value of :func:`mig.values.parse_json`.

    What the service itself decides (id, status, times, counters) is ignored.

    :param now: Unix seconds.
    :raises InvalidInputError: naming the first field that is not accepted.
    """
    if not isinstance(value, dict):
        raise InvalidInputError("the action must be a JSON object", "action")
    _check_members(value, _ACTION_MEMBERS, "")
    signable = Signable(
        name=_parse_text(value, "name"),
        target=_parse_text(value, "target"),
        validfrom=parse_signed_time("validfrom", value.get("validfrom")),
        expireafter=parse_signed_time("expireafter", value.get("expireafter")),
        operations=parse_operations(value.get("operations")),
    )
    _check_syntax(value.get("syntaxversion"))
    _check_order(signable)
    texts = _parse_signature_texts(value.get("pgpsignatures"))
    submission = Submission(
        signable=signable,
        description=_parse_unsigned(value, "description", _DESCRIPTION_TYPES),
        threat=_parse_unsigned(value, "threat", _THREAT_TYPES),
        pgpsignatures=texts,
        signatures=tuple(_parse_signature_field(n, text) for n, text in enumerate(texts)),
    )
    if signable.expireafter.unix_seconds <= now:
        raise InvalidInputError("expireafter must be in the future", "expireafter")
    return submission


def _check_members(value: Mapping[str, object], accepted: Sequence[str], where: str) -> None:
    """Refuse an object with other members than the *accepted* ones.

    The schedulers read names without regard to case, so a second ``Module`` would win over the
    signed one.
    """
    for name in value:
        if name not in accepted:
            place = f"{where}.{name}" if where else name
            shown = ascii(name[:80])[1:-1]
            raise InvalidInputError(
                f"{where or 'the action'} has an unknown member {shown}; known are"
                f" {', '.join(accepted)}",
                place,
            )


def _parse_text(value: Mapping[str, object], name: str) -> str:
    text = parse_plain_text(value.get(name), name)
    if not text.strip():
        raise InvalidInputError(f"{name} must not be empty", name)
    if len(text) > MAX_TEXT_LENGTH:
        raise InvalidInputError(f"{name} must have at most {MAX_TEXT_LENGTH} letters", name)
    return text


def parse_signed_time(where: str, text: object) -> SignedTime:
    """Return a time of an action: RFC 3339 with seconds, at most nine fraction digits, an offset.

    ``-00:00`` is not taken: it says that the offset is unknown (RFC 3339, 4.3).

    :raises InvalidInputError: naming the field *where*, for anything else.
    """
    if isinstance(text, str) and RFC3339_PATTERN.fullmatch(text) and not text.endswith("-00:00"):
        try:
            moment = OffsetDateTime.parse_iso(text)
            moment.to_instant()
        except ValueError:
            pass  # no such day or hour, or outside the years 1 to 9999
        else:
            text = text.removesuffix("+00:00") + "Z" if text.endswith("+00:00") else text
            return SignedTime(text=text, moment=moment)
    raise InvalidInputError(
        f"{where} must be an RFC 3339 date, for example 2014-05-30T00:00:00-04:00", where
    )


def parse_operations(value: object) -> tuple[Operation, ...]:
    """Return an action's operations.

    :raises InvalidInputError: naming the field, for what is not a non-empty array of operations,
        and for members of an operation that no signature covers.
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
    """Refuse a value of :func:`mig.values.parse_json` that Go would not encode as it is.

    :raises InvalidInputError: naming *where*, for text that is not plain, for integers that float64
        does not hold exactly, and beyond *depth* levels.
    """
    if isinstance(value, str):
        _check_plain_text(value, where)
    elif isinstance(value, int):  # bool, too, which is small
        _check_exact(value, where)
    elif isinstance(value, list | dict):
        if not depth:
            raise InvalidInputError(f"{where} is nested deeper than {MAX_DEPTH} levels", where)
        if isinstance(value, dict):
            for name in value:
                _check_plain_text(name, where)
            # in the order of the signed text, for the first fault is the one that is reported
            value = [value[name] for name in sorted(value, key=str.encode)]
        for content in value:
            check_signable_json(content, where, depth - 1)


def _check_plain_text(text: str, where: str) -> None:
    if not text.isprintable():  # most are, and that is soon seen
        parse_plain_text(text, where)


def _check_exact(number: int, where: str) -> None:
    if abs(number) <= MAX_EXACT_INTEGER:
        return
    try:
        stored = float(number)
    except OverflowError:
        stored = 0.0
    if stored != number and to_shortest_decimal(stored) != number:
        raise InvalidInputError(
            f"{where} holds {str(number)[:40]}, which float64 does not hold exactly:"
            " it would be another number than the one that was signed",
            where,
        )


def _check_syntax(version: object) -> None:
    if type(version) is not int or version != SYNTAX_VERSION:
        raise InvalidInputError(f"syntaxversion must be {SYNTAX_VERSION}", "syntaxversion")


def _check_order(action: Signable) -> None:
    begin, end = action.validfrom, action.expireafter
    if (begin.unix_seconds, begin.nanosecond) >= (end.unix_seconds, end.nanosecond):
        raise InvalidInputError("expireafter must be later than validfrom", "expireafter")


def _parse_signature_texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise InvalidInputError("pgpsignatures must be an array of signatures", "pgpsignatures")
    if len(value) > MAX_SIGNATURES:
        raise InvalidInputError(
            f"there may be at most {MAX_SIGNATURES} pgpsignatures", "pgpsignatures"
        )
    texts = tuple(parse_plain_text(text, f"pgpsignatures[{n}]") for n, text in enumerate(value))
    for n, text in enumerate(texts):
        if text in texts[:n]:
            where = f"pgpsignatures[{n}]"
            raise InvalidInputError(f"{where} is given twice", where)
    return texts


def _parse_signature_field(n: int, text: str) -> Signature:
    where = f"pgpsignatures[{n}]"
    try:
        return parse_signature(text)
    except InvalidInputError as reason:
        raise InvalidInputError(f"{where}: {reason}", where) from None


def _parse_unsigned(value: Mapping[str, object], name: str, types: _Types) -> dict[str, Json]:
    """Return an object that no signature covers, of known members."""
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
    return members
