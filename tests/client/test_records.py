"""The client library has the names of the documents and of the parameters."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from inspect import getmembers, signature
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

import mig.client
from mig.client import blocking, records, signer
from mig.client.filters import Filters, build_query, describe_filters
from mig.compliance.definition import build_target
from mig.model.action import Action
from mig.model.agent import Agent
from mig.model.apikey import ApiKey
from mig.model.command import Command
from mig.model.compliance import ComplianceItem, ComplianceSummary
from mig.model.investigator import Investigator
from mig.search.parameters import DOCUMENT_PARAMETERS, PARAMETERS

PAGE = (Path(__file__).parents[2] / "docs" / "client.md").read_text()


def list_names(record: type[msgspec.Struct]) -> list[str]:
    return [field.name for field in msgspec.structs.fields(record)]


@pytest.mark.parametrize(
    "model", [Action, Agent, ApiKey, Command, Investigator, ComplianceItem, ComplianceSummary]
)
def test_records_have_the_members_of_the_documents(model: type[msgspec.Struct]) -> None:
    assert sorted(list_names(getattr(records, model.__name__))) == sorted(list_names(model))


@pytest.mark.parametrize("module", [mig.client, signer])
def test_every_public_name_is_on_the_page(module: ModuleType) -> None:
    names = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if getattr(value, "__module__", "") == module.__name__ and not name.startswith("_")
    ]
    for name in names:
        offered = getattr(module, name)
        assert re.search(rf"\b{name}\b", PAGE), name
        assert offered.__doc__, name
    methods = {**list_methods(signer.Action), **list_methods(signer.Signer)}
    for name in [*list_methods(mig.client.MIGClient), *methods]:
        assert re.search(rf"\b{name}\b", PAGE), name


def test_both_clients_have_the_same_methods() -> None:
    methods = list_methods(mig.client.MIGClient)
    plain = list_methods(blocking.MIGClient)
    assert {name for name in methods if not name.endswith("_batches")} == set(plain)
    for name, method in plain.items():
        assert method.__doc__, name
        parameters, own = (
            [(each.name, each.kind, each.default) for each in signature(one).parameters.values()]
            for one in (methods[name], method)
        )
        assert parameters == own, name


def list_methods(offered: type) -> dict[str, Callable[..., object]]:
    found = getmembers(offered, callable)
    return {name: method for name, method in found if not name.startswith("_")}


def test_filters_are_the_parameters_of_a_search() -> None:
    # what the client sets itself, or what is about one page or the form of the answer
    own = {"type", "report", "cursor", "offset", "total"} | set(DOCUMENT_PARAMETERS)
    own |= {"groupby", "maxage", "scope"}  # arguments of compliance_summary
    names = {parameter.name.removesuffix(".NAME") for parameter in PARAMETERS}
    assert set(Filters.__annotations__) == names - own


@pytest.mark.parametrize("name", Filters.__annotations__)
def test_filters_mean_what_the_parameters_do(name: str) -> None:
    parameter = next(p for p in PARAMETERS if p.name.removesuffix(".NAME") == name)
    _, filter_ = describe_filters()[name]
    assert set(filter_.nouns) == set(parameter.types)
    assert filter_.is_of_reports == bool(parameter.reports)
    if name not in ("limit", "sort"):  # its default is another one, its values are not listed
        assert filter_.meaning == parameter.meaning


def test_filters_become_a_query() -> None:
    filters: Filters = {
        "after": timedelta(days=7),
        "before": datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))),
        "finishedafter": "-1d",
        "finishedbefore": datetime(2026, 1, 1, 0, 0, 0, 5, tzinfo=UTC),
        "status": ["success", "failed"],
        "compliance": False,
        "agentid": 2**64 - 1,
        "tag": {"operator": "IT"},
    }
    assert build_query(filters) == [
        ("after", "-604800s"),
        ("before", "2026-01-01T00:00:00Z"),
        ("finishedafter", "-1d"),
        ("finishedbefore", "2026-01-01T00:00:00.000005Z"),
        ("status", "success"),
        ("status", "failed"),
        ("compliance", "false"),
        ("agentid", "18446744073709551615"),
        ("tag.operator", "IT"),
    ]


def test_filters_that_could_mean_something_else_are_refused() -> None:
    with pytest.raises(TypeError, match="statsu is not a filter"):
        build_query({"statsu": "done"})  # type: ignore[typeddict-unknown-key]
    with pytest.raises(ValueError, match="time zone"):
        build_query({"after": datetime(2026, 1, 1)})
    with pytest.raises(TypeError, match="agentid cannot be None"):
        build_query({"agentid": None})  # type: ignore[typeddict-item]


@pytest.mark.parametrize("name", ["web1.example.net", "bob's laptop", "''"])
def test_an_item_names_its_agent(name: str) -> None:
    policy, check = records.Policy("", "", ""), records.Check("", "", "", "", records.Test("", ""))
    item = records.ComplianceItem(
        target=build_target(name), policy=policy, check=check, compliance=True
    )
    assert item.agent_name == name
