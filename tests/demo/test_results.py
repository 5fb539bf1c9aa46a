"""The demo's agents answer each module in its form, and anything else without elements."""

from __future__ import annotations

import json

import msgspec
import pytest

from mig.demo.machines import MACHINES
from mig.demo.results import MAX_RESULT_BYTES, Operation, make_results
from tests.support.json_types import Json

CHECKS = {f"check {n}": ["a", "b"] for n in range(50)}


def answer_all(module: str, parameters: Json) -> list[Json]:
    """Return the answers of all machines to one operation."""
    operation = Operation(module=module, parameters=msgspec.Raw(json.dumps(parameters).encode()))
    return [json.loads(make_results([operation], machine)[0]) for machine in MACHINES]


def test_a_file_is_found_on_most_machines_with_its_search() -> None:
    search = {"paths": ["/etc/ssh/"], "names": ["^sshd_config$"], "options": {"maxdepth": 1}}
    answers = answer_all("file", {"searches": {"there": search}})
    entries = [answer["elements"]["there"] for answer in answers]
    assert {entry["file"] for [entry] in entries} == {"/etc/ssh/sshd_config", ""}
    assert all(entry["search"] == search for [entry] in entries)
    assert sum(answer["foundanything"] for answer in answers) in range(370, 430)


def test_a_hidden_program_is_found_on_few_machines() -> None:
    hunt = {"paths": ["/usr/sbin"], "names": ["^\\.sshd$"]}
    answers = answer_all("file", {"searches": {"hidden": hunt}})
    found = [answer for answer in answers if answer["foundanything"]]
    assert len(found) in range(1, 40)
    assert found[0]["elements"]["hidden"][0]["file"] == "/usr/sbin/.sshd"


def test_filechecker_counts_the_matches_of_each_value() -> None:
    [first, *_] = answer_all("filechecker", {"/etc/passwd": {"regex": CHECKS}})
    counts = first["elements"]["/etc/passwd"]["regex"]
    assert counts.keys() == CHECKS.keys()
    assert {count["matchcount"] for check in counts.values() for count in check.values()} == {0, 1}


def test_netstat_says_for_each_address_who_has_it() -> None:
    answers = answer_all("netstat", {"connectedip": ["192.0.2.7"], "listeningport": ["22"]})
    assert all(answer["elements"].keys() == {"connectedip", "listeningport"} for answer in answers)
    found = [e for answer in answers for e in answer["elements"]["connectedip"]["192.0.2.7"]]
    assert 0 < len(found) < 40
    assert {entry["remoteaddr"] for entry in found} == {"192.0.2.7"}


def test_ping_reports_latencies_or_failures() -> None:
    answers = answer_all("ping", {"destination": "192.0.2.1", "count": 2})
    for answer in answers:
        elements = answer["elements"]
        assert len(elements["latencies"]) == (2 if answer["foundanything"] else 0)
        assert len(elements["failures"]) == (0 if answer["foundanything"] else 2)


def test_another_module_says_only_whether_it_found_anything() -> None:
    answers = answer_all("memory", {"anything": [1, {}]})
    assert {answer["foundanything"] for answer in answers} == {True, False}
    assert all(answer["elements"] is None and answer["success"] for answer in answers)


@pytest.mark.parametrize("module", ["file", "filechecker", "netstat", "ping"])
@pytest.mark.parametrize("parameters", [None, 7, [], "eJwr", {"searches": {"a": 1}}, {"a": 1}])
def test_other_parameters_are_an_error_of_the_operation(module: str, parameters: Json) -> None:
    if module == "netstat" and isinstance(parameters, dict):
        return  # unknown members are ignored, as Go does
    [first, *_] = answer_all(module, parameters)
    assert first["success"] is False and first["foundanything"] is False
    assert module in first["errors"][0]


@pytest.mark.parametrize(
    "parameters",
    [
        {"/etc/long": {"regex": {"c": ["x" * 20_000]}}},
        {f"/etc/{'p' * 1_000}": {"regex": {"c": [str(n) for n in range(1_000)]}}},
    ],
    ids=["long parameters", "long results"],
)
def test_long_answers_have_no_elements(parameters: Json) -> None:
    for answer in answer_all("filechecker", parameters):
        assert answer["elements"] is None


def test_all_operations_of_an_action_share_the_size_of_its_results() -> None:
    parameters = {"/etc/passwd": {"regex": CHECKS}}
    raw = msgspec.Raw(json.dumps(parameters).encode())
    results = make_results([Operation(module="filechecker", parameters=raw)] * 64, MACHINES[0])
    assert len(results) == 64
    assert sum(map(len, results)) < MAX_RESULT_BYTES + 64 * 200
    assert json.loads(results[0])["elements"] and json.loads(results[-1])["elements"] is None
