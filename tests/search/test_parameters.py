from __future__ import annotations

import pytest
from whenever import Instant

from mig.errors import InvalidInputError
from mig.search.kinds import ParseContext
from mig.search.parameters import PARAMETERS, Parameter
from mig.search.search import parse_search

NOW = Instant.from_utc(2026, 1, 10)
REPORT = [("type", "command"), ("report", "complianceitems")]
SUMMARY = [("type", "command"), ("report", "compliancesummary")]
CONTEXT = ParseContext(type="action", now=NOW)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ([("afterr", "x")], "unknown parameter 'afterr'; did you mean after?"),
        ([("xyzzy", "")], "unknown parameter 'xyzzy'; the parameters are type, actionid"),
        ([("limit", "1"), ("limit", "")], "limit is given twice"),
        ([("type", "agents")], "type must be one of .*; did you mean agent?"),
        ([("type", "agent"), ("foundanything", "true")], "is only for searches of type command"),
        (
            [("type", "agent"), ("threatfamily", "x")],
            "only for searches of type action and command",
        ),
        ([("report", "complianceitems")], "report is only for searches of type command"),
        ([("foundanything", "True"), ("type", "command")], "must be one of true, false"),
        ([("limit", "0")], "limit must be a whole number from 1"),
        ([("limit", str(2**63))], "limit must be a whole number"),
        ([("offset", "-1")], "offset must be a whole number from 0"),
        ([("actionid", "0")], "actionid must be a whole number from 1"),
        ([("actionname", "%a" * 9)], "at most 256 characters with at most 8 %"),
        ([("actionname", "a" * 257)], "at most 256 characters"),
        ([("actionname", "a\\")], "must not end with a single backslash"),
        (
            [("after", "tomorrow")],
            "after must be an RFC 3339 date, for example 2014-05-30T00:00:00-04:00,"
            " or a time before now such as -7d, not 'tomorrow'",
        ),
        ([("after", "-"), ("limit", "1")], "after must be a minus sign, then weeks, days, hours"),
        ([("before", "-1h1d")], "at most 36525 days, for example -1d12h, not '-1h1d"),
        ([("before", "-1.5h")], "before must be a minus sign"),
        ([("after", "-36525d1s")], "at most 36525 days"),
        ([("after", "-1d"), ("after", "-2d")], "after is given twice"),
        ([("agentname", "a")] * 17, "agentname must have at most 16 values"),
        ([("type", "agent"), ("type", "agent")], "type is given twice"),
        ([("type", "agent"), ("tag.a", "1"), ("tag.a", "2")], "tag.a is given twice"),
        ([("type", "agent"), ("tag.", "1")], "tag. must end with one key of 1 to 64 characters"),
        ([("type", "agent"), ("tag." + "x" * 65, "1")], "must end with one key of 1 to 64"),
        ([("type", "agent"), ("environment.x", "%" * 9)], "at most 256 characters with at most 8"),
        ([("tag.a", "1")], "tag.a is only for searches of type agent and command"),
        ([("sort", "name")], "sort must be validfrom or id, with - in front for descending, in a"),
        ([("sort", "--id"), ("type", "agent")], "sort must be starttime or id or name"),
        ([("sort", "id"), ("cursor", "2026-01-01 00:00:00+00,7")], "taken from the next link"),
        ([("sort", "validfrom"), ("cursor", "7")], "taken from the next link"),
        ([("type", "agent"), ("sort", "name"), ("cursor", "x" * 257 + ",7")], "the next link"),
        ([("cursor", "x,7")], "taken from the next link"),
        ([("type", "command"), ("check", "a")], "check is only for report=complianceitems"),
        ([("type", "command"), ("latest", "false")], "latest is only for report=complianceitems"),
        ([("compliance", "true")], "compliance is only for searches of type command"),
        ([*REPORT, ("latest", "true"), ("sort", "starttime")], "only for the order newest first"),
        ([*REPORT, ("latest", "true"), ("sort", "-id")], "only for the order newest first"),
        ([*REPORT, ("latest", "true"), ("offset", "1")], "latest=true has no offset"),
        ([*SUMMARY, ("compliance", "true")], "compliance is only for report=complianceitems$"),
        ([*SUMMARY, ("limit", "1")], "limit is not for report=compliancesummary, which is of all"),
        ([*SUMMARY, ("offset", "0")], "offset is not for report=compliancesummary"),
        ([*SUMMARY, ("cursor", "2026-01-01 00:00:00+00,7")], "cursor is not for"),
        ([*SUMMARY, ("sort", "id")], "sort is not for report=compliancesummary"),
        ([*REPORT, ("groupby", "os")], "groupby is only for report=compliancesummary"),
        ([*SUMMARY, ("groupby", "oss")], "one or two names with .*, not 'oss'; did you mean os?"),
        ([*SUMMARY, ("groupby", "tag.")], "groupby must be one or two names"),
        ([*SUMMARY, ("groupby", "tag." + "x" * 65)], "groupby must be one or two names"),
        ([*SUMMARY, ("groupby", "tag.NAME,")], "groupby must be one or two names"),
        ([*SUMMARY, ("groupby", "os,check,day")], "must be one name, or two different ones"),
        ([*SUMMARY, ("groupby", "os,os")], "must be one name, or two different ones"),
        ([*SUMMARY, ("maxage", "-30d")], "maxage must be weeks, days, hours, .* for example 30d"),
        ([*SUMMARY, ("maxage", "0s")], "maxage must be weeks"),
        ([*SUMMARY, ("scope", "all")], "scope must be one of agents"),
        (
            [*SUMMARY, ("scope", "agents"), ("groupby", "policy,day")],
            "scope=agents is not for groupby=action or day: an agent without",
        ),
        ([("env.os", "1")], "unknown parameter 'env.os'"),
        ([("cursor", "infinity'; drop table agents,1")], "taken from the next link"),
    ],
)
def test_bad_parameters_are_named(parameters: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message.replace("?", r"\?")):
        parse_search(parameters, NOW)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("-24h", 86_400),
        ("-1d12h", 129_600),
        ("-2w3d4h5m6s", 1_483_506),
        ("-1s500ms", 1.5),
        ("-0s", 0),
        ("-36525d", 3_155_760_000),
        ("-3155760000s", 3_155_760_000),
    ],
)
def test_a_relative_time_is_before_the_time_of_the_request(text: str, seconds: float) -> None:
    search = parse_search([("after", text), ("before", text)], NOW)
    time = NOW.subtract(seconds=seconds)
    assert search.parsed_values == {"after": time, "before": time}
    assert search.texts == {"after": (time.format_iso(),), "before": (time.format_iso(),)}


def test_a_filter_may_have_sixteen_values_and_the_answer_repeats_the_first() -> None:
    names = [f"agent{n}" for n in range(16)]
    search = parse_search([("agentname", ""), *(("agentname", name) for name in names)], NOW)
    assert search.parsed_values["agentname"] == tuple(names)
    assert search.echo_parameters().agentname == "agent0"


def test_an_empty_value_means_that_a_parameter_is_not_set() -> None:
    parameters = [
        ("type", ""),
        ("actionid", ""),
        ("limit", ""),
        ("foundanything", ""),
        ("after", ""),
    ]
    search = parse_search(parameters, NOW)
    assert (search.type, search.limit, dict(search.parsed_values)) == ("action", 10_000, {})
    assert search.after == Instant.from_utc(2026, 1, 3)


@pytest.mark.parametrize("type_", ["action", "command", "agent"])
def test_a_client_that_sends_offset_has_a_window_of_39600_hours(type_: str) -> None:
    """Only clients of 2015 to 2017 send it, and never with a cursor."""
    window = NOW.subtract(hours=39_600)
    parameters = [("type", type_), ("offset", "0")]
    assert parse_search(parameters, NOW).after == window
    cursor = ("cursor", "2026-01-01 00:00:00+00,7")
    for other in ([*parameters, cursor], [("type", type_), ("offset", "")]):
        assert parse_search(other, NOW).after == NOW.subtract(hours=7 * 24)
    after = parse_search([*parameters, ("after", "2026-01-09T00:00:00Z")], NOW).after
    assert after == Instant.from_utc(2026, 1, 9)


@pytest.mark.parametrize("name", ["finishedafter", "finishedbefore"])
def test_a_search_by_finish_time_has_no_default_window(name: str) -> None:
    parameters = [("type", "command"), (name, "2026-01-01T00:00:00Z")]
    assert parse_search(parameters, NOW).after is None
    assert parse_search([*parameters, ("after", "2026-01-09T00:00:00Z")], NOW).after is not None


def test_a_search_by_target_has_no_default_window() -> None:
    parameters = [("type", "agent"), ("target", "status='online'")]
    for others in ([], [("offset", "0")]):
        search = parse_search([*parameters, *others], NOW)
        assert (search.after, search.target) == (None, "status='online'")
    assert parse_search([*parameters, ("after", "2026-01-09T00:00:00Z")], NOW).after is not None


def test_investigators_are_found_whenever_they_were_created() -> None:
    after = parse_search([("type", "investigator")], NOW).after
    assert after is not None
    assert after < Instant.from_utc(1027, 1, 1)


def test_patterns_keep_the_wildcards_of_ilike() -> None:
    pattern = "%" * 8 + "_" * 100 + "\\\\"
    assert parse_search([("actionname", pattern)], NOW).parsed_values["actionname"] == (pattern,)


@pytest.mark.parametrize("parameter", PARAMETERS, ids=lambda parameter: parameter.name)
def test_every_kind_describes_what_it_takes(parameter: Parameter) -> None:
    schema = parameter.kind.build_json_schema()
    usual = {"integer": "7", "boolean": "true", "string": "x"}[str(schema["type"])]
    accepted = schema.get("examples") or schema.get("enum") or [usual]
    assert isinstance(accepted, list)
    for text in accepted:
        assert parameter.kind.parse_text(parameter.name, text, CONTEXT) is not None
    refused = []
    for bound, step in (("minimum", -1), ("maximum", 1)):
        if bound in schema:
            refused.append(str(int(str(schema[bound])) + step))
    if "maxLength" in schema:
        refused.append("x" * (int(str(schema["maxLength"])) + 1))
    for text in refused:
        with pytest.raises(InvalidInputError):
            parameter.kind.parse_text(parameter.name, text, CONTEXT)
