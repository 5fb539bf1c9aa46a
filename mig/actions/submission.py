"""A signed action as an investigator submits it: typed fields, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mig.errors import InvalidInput
from mig.openpgp.packet import Signature, signature
from mig.signing.canonical import (
    Signable,
    encode,
    known_members,
    operations,
    plain_text,
    signed_time,
)

LONGEST_TEXT: Final = 2048
MOST_SIGNATURES: Final = 20
SYNTAX_VERSION: Final = 2

NEW_STATUS: Final = "init"
NOT_STARTED: Final = "0011-01-11T11:11:11.000000011Z"
NOT_FINISHED: Final = "9998-01-11T11:11:11.000000011Z"

_MEMBERS: Final = (
    *("id", "name", "target", "description", "threat", "validfrom", "expireafter", "operations"),
    *("pgpsignatures", "investigators", "status", "starttime", "finishtime", "lastupdatetime"),
    *("counters", "syntaxversion"),
)
_DESCRIPTION: Final = {"author": str, "email": str, "url": str, "revision": (int, float)}
_THREAT: Final = {"ref": str, "level": str, "family": str, "type": str}


@dataclass(frozen=True, kw_only=True)
class Submission:
    """An action and its signatures. *description* and *threat* are JSON that nobody signed."""

    signable: Signable
    description: str
    threat: str
    pgpsignatures: tuple[str, ...]
    signatures: tuple[Signature, ...]

    @property
    def pgpsignatures_json(self) -> str:
        return encode(list(self.pgpsignatures), "pgpsignatures")

    def document(self, id: int) -> str:
        """What a scheduler of 2014 reads from its spool: built from what was signed."""
        action = self.signable
        texts = {
            "name": action.name,
            "target": action.target,
            "validfrom": action.validfrom.text,
            "expireafter": action.expireafter.text,
            "status": NEW_STATUS,
            "starttime": NOT_STARTED,
            "finishtime": NOT_FINISHED,
            "lastupdatetime": NOT_STARTED,
        }
        members = [f'"id":{id:d}']
        members += [f'"{name}":{encode(text, name)}' for name, text in texts.items()]
        members += [
            f'"description":{self.description}',
            f'"threat":{self.threat}',
            f'"operations":{action.operations}',
            f'"pgpsignatures":{self.pgpsignatures_json}',
            '"counters":{}',
            f'"syntaxversion":{SYNTAX_VERSION}',
        ]
        return "{" + ",".join(members) + "}\n"


def read(value: Any) -> Submission:
    """The submission in a value of :func:`mig.values.parse_json`.

    What the service itself decides (id, status, times, counters) is read over.

    :raises InvalidInput: naming the first field that is not accepted.
    """
    if not isinstance(value, dict):
        raise InvalidInput("the action must be a JSON object", "action")
    known_members(value, _MEMBERS, "")
    signable = Signable(
        name=_filled(value, "name"),
        target=_filled(value, "target"),
        validfrom=signed_time("validfrom", value.get("validfrom")),
        expireafter=signed_time("expireafter", value.get("expireafter")),
        operations=operations(value.get("operations")),
    )
    _check_syntax(value.get("syntaxversion"))
    _check_order(signable)
    given = _listed(value.get("pgpsignatures"))
    return Submission(
        signable=signable,
        description=_unsigned(value, "description", _DESCRIPTION),
        threat=_unsigned(value, "threat", _THREAT),
        pgpsignatures=given,
        signatures=tuple(_signature(n, text) for n, text in enumerate(given)),
    )


def _filled(value: Mapping[str, Any], name: str) -> str:
    text = plain_text(value.get(name), name)
    if not text.strip():
        raise InvalidInput(f"{name} must not be empty", name)
    if len(text) > LONGEST_TEXT:
        raise InvalidInput(f"{name} must have at most {LONGEST_TEXT} letters", name)
    return text


def _check_syntax(version: Any) -> None:
    if type(version) is not int or version != SYNTAX_VERSION:
        raise InvalidInput(f"syntaxversion must be {SYNTAX_VERSION}", "syntaxversion")


def _check_order(action: Signable) -> None:
    begin, end = action.validfrom, action.expireafter
    if (begin.seconds, begin.nanosecond) >= (end.seconds, end.nanosecond):
        raise InvalidInput("expireafter must be later than validfrom", "expireafter")


def _listed(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise InvalidInput("pgpsignatures must be an array of signatures", "pgpsignatures")
    if len(value) > MOST_SIGNATURES:
        raise InvalidInput(f"there may be at most {MOST_SIGNATURES} pgpsignatures", "pgpsignatures")
    texts = tuple(plain_text(text, f"pgpsignatures[{n}]") for n, text in enumerate(value))
    for n, text in enumerate(texts):
        if text in texts[:n]:
            where = f"pgpsignatures[{n}]"
            raise InvalidInput(f"{where} is given twice", where)
    return texts


def _signature(n: int, text: str) -> Signature:
    where = f"pgpsignatures[{n}]"
    try:
        return signature(text)
    except InvalidInput as reason:
        raise InvalidInput(f"{where}: {reason}", where) from None


def _unsigned(value: Mapping[str, Any], name: str, types: Mapping[str, Any]) -> str:
    """The JSON of an object that no signature covers, of its known members."""
    given = value.get(name)
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise InvalidInput(f"{name} must be an object", name)
    known_members(given, tuple(types), name)
    for member, content in given.items():
        kind = types[member]
        if not isinstance(content, kind) or isinstance(content, bool):
            what = "a string" if kind is str else "a number"
            raise InvalidInput(f"{name}.{member} must be {what}", f"{name}.{member}")
    return encode(given, name)
