"""The readable definition of a compliance item (the specification, section 2).

:func:`build_compliance_items` is slow and easy to read. It defines what each form of stored results
means, and raises :class:`~mig.errors.UnreadableError` for all others. Tests compare the fast
encoder with it (docs/decisions/0014).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import msgspec

from mig.errors import UnreadableError
from mig.model.compliance import Check, ComplianceItem, Policy, Test
from mig.values import format_time

JsonObject = dict[str, object]
Expected = TypeVar("Expected")

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
"""The filters of a search of the module ``file``, in the order in which a check names them.

Each has the name in a check and the member of the search that has its values.
"""

UNREADABLE_RESULTS = "the stored results cannot be read"


def build_target(agent_name: str) -> str:
    """Return the condition that selects an agent, as investigators write targets."""
    quoted = agent_name.replace("'", "''")
    return f"agents.name='{quoted}'"


def format_text(value: object) -> str:
    """Return a stored value as text, for a member that clients expect to be a string.

    :raises UnreadableError: for a string that contains U+0000.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return refuse_nul(value)
    return msgspec.json.encode(value).decode()


def refuse_nul(text: str) -> str:
    """Return ``text``.

    :raises UnreadableError: when it contains U+0000, which many readers of a report cannot handle
        (docs/decisions/0015).
    """
    if "\0" in text:
        raise UnreadableError(f"{UNREADABLE_RESULTS}: a text contains the character U+0000")
    return text


def build_compliance_items(
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
    """Return the compliance items of a command, in the order of its results.

    ``description``, ``threat``, ``operations`` and ``results`` are the JSON texts of the columns;
    ``finishtime`` is the column as PostgreSQL writes it.

    :raises UnreadableError: when the command or its action cannot be read.
    """
    modules = read_modules(operations)
    policy, ref = read_policy_and_ref(description, threat)
    timestamp = format_time(finishtime)
    return [
        ComplianceItem(
            target=build_target(agent_name),
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
        for found in read_checks(modules, results)
    ]


class CheckResult(NamedTuple):
    """A check in a command's results, and whether the agent complies with it."""

    name: str
    type: str
    value: str
    location: str
    compliance: bool


def read_policy_and_ref(description: str | None, threat: str | None) -> tuple[Policy, str]:
    """Return the policy of an action and the reference of its checks.

    :raises UnreadableError: when the description or the threat cannot be read.
    """
    threat_value = _parse_object(threat, "the action's threat")
    description_value = _parse_object(description, "the action's description")
    policy = Policy(
        level=format_text(threat_value.get("level")),
        name=format_text(threat_value.get("type")),
        url=format_text(description_value.get("url")),
    )
    return policy, format_text(threat_value.get("ref"))


def parse_stored_json(stored: str, what: str) -> object:
    """Return the value of a stored JSON text.

    :raises UnreadableError: for a text that contains a lone surrogate or is nested too deeply; the
        message begins with ``what``.
    """
    try:
        # msgspec refuses lone surrogates, which json.loads accepts
        msgspec.json.Decoder(msgspec.Raw).decode(stored)
        return json.loads(stored)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"{what} cannot be read: {error}") from None


def _parse_object(stored: str | None, what: str) -> JsonObject:
    value = parse_stored_json(stored or "null", what)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UnreadableError(f"{what} is not an object")
    return value


def read_modules(operations: str | None) -> list[tuple[str, str]]:
    """Return the module and the parameters, as compact JSON, of each operation of an action.

    :raises UnreadableError: when the operations cannot be read.
    """
    what = "the action's operations"
    value = parse_stored_json(operations or "[]", what)
    if not isinstance(value, list) or not all(
        isinstance(operation, dict) and isinstance(operation.get("module"), str)
        for operation in value
    ):
        raise UnreadableError(f"{what} are not an array of objects with a module")
    # raw parameters: decoding would change how numbers and strings are written
    raw = msgspec.json.decode(operations or "[]", type=list[dict[str, msgspec.Raw]])
    return [
        (
            refuse_nul(operation["module"]),
            compact_json(parameters["parameters"]) if "parameters" in parameters else "null",
        )
        for operation, parameters in zip(value, raw, strict=True)
    ]


def compact_json(raw: msgspec.Raw) -> str:
    """Return JSON without white space between its tokens, which stay exactly as they are."""
    return msgspec.json.format(bytes(raw), indent=-1).decode()


def read_checks(modules: list[tuple[str, str]], results: str | None) -> Iterator[CheckResult]:
    """Yield each check of a command's results.

    :raises UnreadableError: for results of a form that has no meaning.
    """
    value = parse_stored_json(results or "null", "the stored results")
    if value is None:
        return
    if not isinstance(value, list):
        raise UnreadableError("the stored results are not an array")
    if len(value) > len(modules):
        raise UnreadableError(f"{len(value)} results are stored for {len(modules)} operations")
    for (module, parameters), result in zip(modules, value, strict=False):
        if not isinstance(result, dict):
            raise UnreadableError(f"{UNREADABLE_RESULTS}: a result is not an object")
        if module == "file":
            yield from _read_file_checks(result)
        elif module == "filechecker":
            yield from _read_filechecker_checks(result)
        else:
            found = _read_member(result, "foundanything", bool, False)
            yield make_check_result(module, module, parameters, "", found)


def make_check_result(
    name: str, type_: str, value: str, location: str, compliance: bool
) -> CheckResult:
    """Return the result of a check.

    :raises UnreadableError: when one of its texts contains U+0000.
    """
    for part in (name, type_, value, location):
        refuse_nul(part)
    return CheckResult(name, type_, value, location, compliance)


def _read_file_checks(result: JsonObject) -> Iterator[CheckResult]:
    """Yield the checks in a result of the module ``file``.

    elements[label] = [{"file", "search", "fileinfo"}]
    """
    for label, entries in _read_member(result, "elements", dict, {}).items():
        for entry in _require_type(entries, list, [], "an entry of elements"):
            entry = _require_type(entry, dict, None, "a file")
            file = _read_member(entry, "file", str, "")
            search = _read_member(entry, "search", dict, {})
            tests = [
                f"{name}='{value}'"
                for name, member in SEARCH_FILTERS
                for value in _read_strings(search, member)
            ]
            paths = ", ".join(_read_strings(search, "paths"))
            yield make_check_result(label, "file", " and ".join(tests), file or paths, file != "")


def _read_filechecker_checks(result: JsonObject) -> Iterator[CheckResult]:
    """Yield the checks in a result of the module ``filechecker``.

    elements[path][method][check name][test value] = {"filecount", "matchcount", "files"}
    """
    for path, methods in _read_member(result, "elements", dict, {}).items():
        for method, names in _require_type(methods, dict, {}, "a path").items():
            for name, values in _require_type(names, dict, {}, "a method").items():
                for value, counts in _require_type(values, dict, {}, "a check").items():
                    counts = _require_type(counts, dict, {}, "a test")
                    matches = _read_member(counts, "matchcount", float, 0.0)
                    yield make_check_result(name, method, value, path, matches > 0)


def _read_strings(search: JsonObject, member: str) -> list[str]:
    values = _read_member(search, member, list, [])
    return [_require_type(value, str, None, f"a value of {member}") for value in values]


def _read_member(
    value: JsonObject, member: str, type_: type[Expected], default: Expected | None
) -> Expected:
    return _require_type(value.get(member), type_, default, member)


def _require_type(
    value: object, type_: type[Expected], default: Expected | None, what: str
) -> Expected:
    """Return ``value``, or ``default`` for null, as Go decodes it.

    :raises UnreadableError: when the value is not of type ``type_``; the message has ``what``.
    """
    if value is None and default is not None:
        return default
    # an int is a number, too; a bool is an int in Python but not a number, and float() of an int
    # beyond float64 raises OverflowError
    if type_ is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 10**308 else float("inf")
    if not isinstance(value, type_) or value == float("inf"):
        raise UnreadableError(f"{UNREADABLE_RESULTS}: {what} is not {_TYPE_NAMES[type_]}")
    return value


_TYPE_NAMES: dict[type, str] = {
    dict: "an object",
    list: "an array",
    str: "a string",
    float: "a number",
    bool: "a boolean",
}
