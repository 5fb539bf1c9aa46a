"""What a compliance item is made of: the readable definition (seed, section 2).

:func:`compliance_items` is what the fast encoder is proven equal to. It is small and slow, says
what every stored form means, and refuses (:class:`~mig.errors.UnreadableError`) what has no
meaning.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import msgspec

from mig.errors import UnreadableError
from mig.model.compliance import Check, ComplianceItem, Policy, Test
from mig.values import format_time

Object = dict[str, object]
Wanted = TypeVar("Wanted")

SEARCH_FILTERS = (
    ("name", "names"),
    ("size", "sizes"),
    ("mode", "modes"),
    ("mtime", "mtimes"),
    ("content", "contents"),
    ("md5", "md5"),
    ("sha1", "sha1"),
    ("sha2", "sha2"),
    ("sha3", "sha3"),
)
"""The filters of a search of the module ``file``, in the order in which a check names them, and
the members that hold their values."""

NOT_READ = "the stored results cannot be read"


def target(agent_name: str) -> str:
    """The condition that selects the agent, as investigators write targets."""
    quoted = agent_name.replace("'", "''")
    return f"agents.name='{quoted}'"


def text(value: object) -> str:
    """A member that clients expect to be a string: never null."""
    if value is None:
        return ""
    if isinstance(value, str):
        return without_nul(value)
    return msgspec.json.encode(value).decode()


def without_nul(text: str) -> str:
    """*text* itself.

    :raises UnreadableError: when it holds U+0000, which most readers of a report cannot hold.
    """
    if "\0" in text:
        raise UnreadableError(f"{NOT_READ}: a text holds the character U+0000")
    return text


def compliance_items(
    *,
    link: str,
    agent_name: str,
    action_name: str,
    description: str | None,
    threat: str | None,
    operations: str | None,
    finishtime: str | None,
    results: str | None,
) -> list[ComplianceItem]:
    """The compliance items of one command, in the order of its results.

    *description*, *threat*, *operations* and *results* are the JSON texts of the columns,
    *finishtime* is what PostgreSQL writes for the column.

    :raises UnreadableError: when the command or its action cannot be read.
    """
    modules = modules_of(operations)
    policy, ref = policy_and_ref(description, threat)
    timestamp = format_time(finishtime)
    return [
        ComplianceItem(
            target=target(agent_name),
            policy=policy,
            check=Check(
                ref=ref,
                description=action_name,
                location=found.location,
                name=found.name,
                test=Test(type=found.type, value=found.value),
            ),
            compliance=found.compliance,
            link=link,
            timestamp=timestamp,
            utctimestamp=timestamp,
        )
        for found in _checks(modules, results)
    ]


class Found(NamedTuple):
    """One check of a command's results, and whether the agent complies with it."""

    name: str
    type: str
    value: str
    location: str
    compliance: bool


def policy_and_ref(description: str | None, threat: str | None) -> tuple[Policy, str]:
    """An action's policy, and the reference of its checks.

    :raises UnreadableError: when description or threat cannot be read.
    """
    threat_value = _object(threat, "the action's threat")
    description_value = _object(description, "the action's description")
    policy = Policy(
        level=text(threat_value.get("level")),
        name=text(threat_value.get("type")),
        url=text(description_value.get("url")),
    )
    return policy, text(threat_value.get("ref"))


def parse(stored: str, what: str) -> object:
    """The value of a stored JSON text.

    :raises UnreadableError: naming *what*, for a text with half a surrogate pair or nested too
        deep.
    """
    try:
        msgspec.json.Decoder(msgspec.Raw).decode(stored)
        return json.loads(stored)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"{what} cannot be read: {error}") from None


def _object(stored: str | None, what: str) -> Object:
    value = parse(stored or "null", what)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UnreadableError(f"{what} is no object")
    return value


def modules_of(operations: str | None) -> list[tuple[str, str]]:
    """Module and parameters, as compact JSON, of each operation of an action.

    :raises UnreadableError: when they cannot be read.
    """
    what = "the action's operations"
    value = parse(operations or "[]", what)
    if not isinstance(value, list) or not all(
        isinstance(operation, dict) and isinstance(operation.get("module"), str)
        for operation in value
    ):
        raise UnreadableError(f"{what} are no array of objects with a module")
    raw = msgspec.json.decode(operations or "[]", type=list[dict[str, msgspec.Raw]])
    return [
        (
            without_nul(operation["module"]),
            compact(parameters["parameters"]) if "parameters" in parameters else "null",
        )
        for operation, parameters in zip(value, raw, strict=True)
    ]


def compact(raw: msgspec.Raw) -> str:
    """JSON without white space between its tokens, numbers and strings as they were written."""
    return msgspec.json.format(bytes(raw), indent=-1).decode()


def _checks(modules: list[tuple[str, str]], results: str | None) -> Iterator[Found]:
    """Each check of a command's results, and whether the agent complies with it."""
    value = parse(results or "null", "the stored results")
    if value is None:
        return
    if not isinstance(value, list):
        raise UnreadableError("the stored results are no array")
    if len(value) > len(modules):
        raise UnreadableError(f"{len(value)} results are stored for {len(modules)} operations")
    for (module, parameters), result in zip(modules, value, strict=False):
        if not isinstance(result, dict):
            raise UnreadableError(f"{NOT_READ}: a result is no object")
        if module == "file":
            yield from _file_checks(result)
        elif module == "filechecker":
            yield from _filechecker_checks(result)
        else:
            found = _typed(result, "foundanything", bool, False)
            yield found_check(module, module, parameters, "", found)


def found_check(name: str, type_: str, value: str, location: str, compliance: bool) -> Found:
    """Return what was found.

    :raises UnreadableError: when a text in it holds U+0000.
    """
    for part in (name, type_, value, location):
        without_nul(part)
    return Found(name, type_, value, location, compliance)


def _file_checks(result: Object) -> Iterator[Found]:
    """elements[label] = [{"file", "search", "fileinfo"}]"""
    for label, entries in _typed(result, "elements", dict, {}).items():
        for entry in _instance(entries, list, [], "an entry of elements"):
            entry = _instance(entry, dict, None, "a file")
            file = _typed(entry, "file", str, "")
            search = _typed(entry, "search", dict, {})
            tests = [
                f"{name}='{value}'"
                for name, member in SEARCH_FILTERS
                for value in _strings(search, member)
            ]
            paths = ", ".join(_strings(search, "paths"))
            yield found_check(label, "file", " and ".join(tests), file or paths, file != "")


def _filechecker_checks(result: Object) -> Iterator[Found]:
    """elements[path][method][check name][test value] = {"filecount", "matchcount", "files"}"""
    for path, methods in _typed(result, "elements", dict, {}).items():
        for method, names in _instance(methods, dict, {}, "a path").items():
            for name, values in _instance(names, dict, {}, "a method").items():
                for value, counts in _instance(values, dict, {}, "a check").items():
                    counts = _instance(counts, dict, {}, "a test")
                    matches = _typed(counts, "matchcount", float, 0.0)
                    yield found_check(name, method, value, path, matches > 0)


def _strings(search: Object, member: str) -> list[str]:
    values = _typed(search, member, list, [])
    return [_instance(value, str, None, f"a value of {member}") for value in values]


def _typed(value: Object, member: str, type_: type[Wanted], absent: Wanted | None) -> Wanted:
    return _instance(value.get(member), type_, absent, member)


def _instance(value: object, type_: type[Wanted], absent: Wanted | None, what: str) -> Wanted:
    """*value* when it is of the type that it must be; *absent* for null, as Go reads it."""
    if value is None and absent is not None:
        return absent
    if type_ is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 10**308 else float("inf")
    if not isinstance(value, type_) or value == float("inf"):
        raise UnreadableError(f"{NOT_READ}: {what} is no {_NAMES[type_]}")
    return value


_NAMES: dict[type, str] = {
    dict: "object",
    list: "array",
    str: "string",
    float: "number",
    bool: "boolean",
}
