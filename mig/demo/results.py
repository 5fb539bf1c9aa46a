"""What the demo's agents answer: the results of an operation, made up but of the right form.

An agent always answers the same operation alike. The modules ``file``, ``filechecker``, ``netstat``
and ``ping`` say what they found, the others only whether they found something. What is looked for
below ``/etc`` is found on most machines, and anything else on few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from zlib import crc32

import msgspec

from mig.demo.machines import Machine

MAX_PARAMETER_BYTES: Final = 16_384
MAX_RESULT_BYTES: Final = 65_536
"""Longer parameters, and what would make longer results, are answered without elements.

A post of 10 MiB would otherwise become gigabytes in the database of a demo.
"""

_UNUSUAL_SHARE: Final = 5
"""One of so many machines does not have what most have."""

_RARE_SHARE: Final = 45
"""One of so many machines has what few have."""


class Operation(msgspec.Struct):
    """An operation of an action; ``parameters`` is JSON, which each module reads itself."""

    module: str
    parameters: msgspec.Raw = msgspec.Raw(b"null")


class _FileSearch(msgspec.Struct):
    paths: list[str] = []
    names: list[str] = []


class _FileParameters(msgspec.Struct):
    searches: dict[str, msgspec.Raw]


class _NetstatParameters(msgspec.Struct):
    neighborip: list[str] = []
    neighbormac: list[str] = []
    localip: list[str] = []
    localmac: list[str] = []
    connectedip: list[str] = []
    listeningport: list[str] = []


class _PingParameters(msgspec.Struct):
    destination: str
    protocol: str = "icmp"
    destinationport: float = 0
    count: float = 3


_FilecheckerParameters = dict[str, dict[str, dict[str, list[str]]]]
_Elements = Mapping[str, object]
_MAX_PINGS: Final = 10


def make_results(operations: Sequence[Operation], machine: Machine) -> list[bytes]:
    """Return what a machine answers to the operations of an action: JSON, one for each."""
    remaining = MAX_RESULT_BYTES
    results = []
    for operation in operations:
        result = msgspec.json.encode(_answer_operation(operation, machine))
        if len(result) > remaining:
            result = msgspec.json.encode(_make_plain_result(operation, machine))
        remaining -= len(result)
        results.append(result)
    return results


def _answer_operation(operation: Operation, machine: Machine) -> Mapping[str, object]:
    answer = _ANSWERS.get(operation.module)
    if answer is None or len(operation.parameters) > MAX_PARAMETER_BYTES:
        return _make_plain_result(operation, machine)
    try:
        found_anything, elements = answer(operation.parameters, machine)
    except msgspec.ValidationError as reason:
        text = f"the parameters are not those of {operation.module}: {reason}"
        return _make_result(False, None, machine, errors=[text])
    return _make_result(found_anything, elements, machine)


def _make_plain_result(operation: Operation, machine: Machine) -> Mapping[str, object]:
    """Return the result of a module of which the demo knows nothing."""
    return _make_result(_is_rare(machine, operation.module), None, machine)


def _make_result(
    found_anything: bool,
    elements: _Elements | None,
    machine: Machine,
    *,
    errors: Sequence[str] | None = None,
) -> Mapping[str, object]:
    return {
        "foundanything": found_anything,
        "success": errors is None,
        "elements": elements,
        "statistics": {"exectime": f"{_choose(machine, 'exectime') % 9_973 / 1000}ms"},
        "errors": errors,
    }


def _choose(machine: Machine, *what: str) -> int:
    """Return a number that depends on the machine and on ``what`` alone."""
    return crc32("\0".join((machine.name, *what)).encode())


def _is_usual(machine: Machine, *what: str) -> bool:
    return _choose(machine, *what) % _UNUSUAL_SHARE != 0


def _is_rare(machine: Machine, *what: str) -> bool:
    return _choose(machine, *what) % _RARE_SHARE == 0


def _has_file(machine: Machine, path: str, *what: str) -> bool:
    is_in = _is_usual if path.startswith("/etc/") else _is_rare
    return is_in(machine, path, *what)


def _answer_file(parameters: msgspec.Raw, machine: Machine) -> tuple[bool, _Elements]:
    searches = msgspec.json.decode(parameters, type=_FileParameters).searches
    elements = {}
    found_anything = False
    for label, whole in searches.items():
        search = msgspec.json.decode(whole, type=_FileSearch)
        path = _make_path(search)
        found = _has_file(machine, path, label)
        found_anything = found_anything or found
        entry = {
            "file": path if found else "",
            "search": whole,  # with all that it has
            "fileinfo": _make_file_info(machine, label) if found else _NO_FILE_INFO,
        }
        elements[label] = [entry]
    return found_anything, elements


_NO_FILE_INFO: Final = {"lastmodified": "0001-01-01 00:00:00 +0000 UTC", "mode": "", "size": 0}


def _make_path(search: _FileSearch) -> str:
    """Return a path that the search may have found."""
    folder = search.paths[0].rstrip("/") if search.paths else ""
    pattern = search.names[0] if search.names else ""
    name = "".join(character for character in pattern if character.isalnum() or character in "._-")
    return f"{folder}/{name or 'file'}"


def _make_file_info(machine: Machine, label: str) -> _Elements:
    number = _choose(machine, label, "size")
    return {
        "lastmodified": f"2014-0{1 + number % 5}-{1 + number % 28:02d} 09:30:12 +0000 UTC",
        "mode": "-rw-r--r--",
        "size": 900 + number % 4_000,
    }


def _answer_filechecker(parameters: msgspec.Raw, machine: Machine) -> tuple[bool, _Elements]:
    paths = msgspec.json.decode(parameters, type=_FilecheckerParameters)
    found_anything = False

    def count_matches(path: str, name: str, value: str) -> _Elements:
        nonlocal found_anything
        found = _has_file(machine, path, name, value)
        found_anything = found_anything or found
        return {"filecount": 1, "matchcount": int(found), "files": {path: 1} if found else {}}

    elements = {
        path: {
            method: {
                name: {value: count_matches(path, name, value) for value in values}
                for name, values in checks.items()
            }
            for method, checks in methods.items()
        }
        for path, methods in paths.items()
    }
    return found_anything, elements


def _answer_netstat(parameters: msgspec.Raw, machine: Machine) -> tuple[bool, _Elements]:
    asked = msgspec.structs.asdict(msgspec.json.decode(parameters, type=_NetstatParameters))
    elements = {
        search: {
            value: [_make_connection(search, value, machine)]
            if _is_rare(machine, search, value)
            else []
            for value in values
        }
        for search, values in asked.items()
        if values
    }
    return any(any(found.values()) for found in elements.values()), elements


def _make_connection(search: str, value: str, machine: Machine) -> _Elements:
    """Return what the search of one value has found in the tables of the network."""
    mac = f"02:00:{machine.number >> 8:02x}:{machine.number & 255:02x}:4b:1d"
    ports = {"localaddr": machine.address, "localport": 40_000 + machine.number}
    if search == "localip":
        return {"localmacaddr": mac, "localaddr": value}
    if search == "localmac":
        return {"localmacaddr": value, "localaddr": machine.address}
    if search == "neighborip":
        return {"remotemacaddr": mac, "remoteaddr": value}
    if search == "neighbormac":
        return {"remotemacaddr": value, "remoteaddr": "10.0.0.1"}
    if search == "listeningport":
        return {"localaddr": "0.0.0.0", "localport": value}  # noqa: S104 - what a machine reports
    return {**ports, "remoteaddr": value, "remoteport": 443}


def _answer_ping(parameters: msgspec.Raw, machine: Machine) -> tuple[bool, _Elements]:
    asked = msgspec.json.decode(parameters, type=_PingParameters)
    count = max(1, min(round(asked.count), _MAX_PINGS))
    found = _is_usual(machine, asked.destination)
    latencies = [
        _choose(machine, asked.destination, str(n)) % 90_000 / 1000 + 0.3 for n in range(count)
    ]
    elements = {
        "protocol": asked.protocol,
        "resolvedhost": asked.destination,
        "latencies": [round(latency, 3) for latency in latencies] if found else [],
        "failures": [] if found else ["no answer within 5s"] * count,
    }
    return found, elements


_ANSWERS: Final = {
    "file": _answer_file,
    "filechecker": _answer_filechecker,
    "netstat": _answer_netstat,
    "ping": _answer_ping,
}
