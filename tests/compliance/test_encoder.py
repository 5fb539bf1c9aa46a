"""The fast encoder writes exactly the items of the readable definition."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mig.compliance.definition import build_compliance_items
from mig.compliance.encoder import ComplianceEncoder
from mig.errors import UnreadableError
from mig.formats.collection_json import CollectionJson
from mig.hypermedia.urls import Urls
from mig.limits import Limits
from mig.model.command import ResultsRow
from mig.model.compliance import ComplianceItem
from mig.model.record import encode_json
from mig.model.statement import Parameters, Statement
from tests.support.json_types import Json, JsonObject

URLS = Urls("http://localhost:1664/api/v1")
DEFAULTS = Limits()

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
    st.lists(st.integers(), max_size=2),
    st.dictionaries(texts, st.integers(), max_size=2),
)


def mix_with_odd(usual: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    return st.integers(0, 30).flatmap(lambda n: odd if n == 0 else usual)


def draw_object(**usual: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    """Draw an object with any of the members, sometimes with an unusual value in one."""
    return mix_with_odd(
        st.fixed_dictionaries({}, optional={k: mix_with_odd(v) for k, v in usual.items()})
    )


strings = st.lists(mix_with_odd(texts), max_size=3)
searches = draw_object(
    paths=strings, names=strings, sizes=strings, modes=strings, mtimes=strings,
    contents=strings, md5=strings, sha1=strings, sha2=strings, sha3=strings, options=odd,
)  # fmt: skip
hits = st.lists(draw_object(file=texts, search=searches, fileinfo=odd), max_size=3)
file_elements = st.dictionaries(texts, mix_with_odd(hits), max_size=3)
counts = draw_object(matchcount=st.integers(0, 3) | st.floats(0, 2), filecount=odd, files=odd)
filechecker_elements = st.dictionaries(
    texts,
    mix_with_odd(
        st.dictionaries(
            texts,
            mix_with_odd(st.dictionaries(texts, mix_with_odd(counts), max_size=2)),
            max_size=2,
        )
    ),
    max_size=2,
)
results = st.lists(
    draw_object(
        foundanything=st.booleans(),
        success=st.booleans(),
        elements=st.one_of(file_elements, filechecker_elements, odd),
        statistics=odd,
        error=odd,
    ),
    max_size=3,
)
operations = st.lists(
    st.fixed_dictionaries(
        {"module": st.sampled_from(["file", "filechecker", "netstat", "memory"])},
        optional={"parameters": odd},
    ),
    max_size=3,
)
surrogates = st.sampled_from(["", r"\ud800", r"\udc00", r"\ud83d\ude00", r"\u0000"])
times = st.sampled_from(
    ["2014-05-30 14:55:41.907745+00", "0001-01-01 00:00:00+00", "infinity", None]
    + ["2014-05-30 14:55:41+00"] * 10
)


def write_json(value: Json, indent: int | None, escaped: str) -> str:
    """Return JSON text as an agent may have stored it."""
    return json.dumps(value, indent=indent, ensure_ascii=bool(indent)).replace("~", escaped)


def encode_fast(command: JsonObject, agent_name: str) -> list[Json]:
    row = make_row(command["results"], command["finishtime"])
    encoder = prepare_encoder(command, agent_name, row)
    twice = [encoder.encode_row(row), encoder.encode_row(row)]
    assert twice[0] == twice[1]
    items: list[Json] = json.loads(b"[%b]" % twice[0])
    assert encoder.item_count == 2 * len(items)
    return items


def make_row(results: str | None, finishtime: str | None) -> ResultsRow:
    """Return the row of command 3, of action 2 on agent 1."""
    return ResultsRow("3", "2", "1", "2014-05-30 14:55:40+00", finishtime, results, None)


def prepare_encoder(
    command: JsonObject, agent_name: str, row: ResultsRow, limits: Limits = DEFAULTS
) -> ComplianceEncoder:
    """Return an encoder that knows the action and the agent of *row*."""
    encoder = ComplianceEncoder(CollectionJson(URLS), URLS, limits)
    action = ("2", *(command[k] for k in ("action_name", "description", "threat", "operations")))

    async def query(statement: Statement[Json], parameters: Parameters = ()) -> list[Json]:
        answer: Json = action if "from actions" in statement.execute_sql else ("1", agent_name)
        return statement.read_records([answer])

    with pytest.raises(StopIteration):
        encoder.load_related(query, [row]).send(None)
    return encoder


def encode_by_definition(command: JsonObject, agent_name: str) -> list[Json]:
    link = URLS.for_command(3)
    try:
        items = build_compliance_items(link=link, agent_name=agent_name, **command)
    except UnreadableError as reason:
        quoted = agent_name.replace("'", "''")
        value = {"link": link, "target": f"agents.name='{quoted}'", "reason": str(reason)}
        return [{"href": link, "data": [{"name": "unreadable command", "value": value}]}]
    return [
        {"href": link, "data": [{"name": ComplianceItem.noun, "value": encode_item(item)}]}
        for item in items
    ]


def encode_item(item: ComplianceItem) -> Json:
    return json.loads(encode_json(item))


@given(
    agent_name=texts.map(lambda t: t.replace("\0", "")),
    action_name=texts.map(lambda t: t.replace("\0", "")),
    description=draw_object(url=texts, author=odd) | st.none(),
    threat=draw_object(level=texts, family=texts, type=texts, ref=texts) | st.none(),
    operations=mix_with_odd(operations),
    results=mix_with_odd(results) | st.none(),
    finishtime=times,
    indent=st.sampled_from([None, 1]),
    escaped=surrogates,
)
def test_the_fast_encoder_matches_the_readable_definition(
    agent_name: str, indent: int | None, escaped: str, finishtime: str | None, **values: Json
) -> None:
    command = {
        name: value
        if name == "action_name" or value is None
        else write_json(value, indent, escaped)
        for name, value in values.items()
    }
    command["finishtime"] = finishtime
    assert encode_fast(command, agent_name) == encode_by_definition(command, agent_name)


@given(
    many=st.lists(file_elements, min_size=3, max_size=8),
    kept=st.integers(1, 4),
    longest=st.sampled_from([0, 8, 4_096]),
)
def test_checks_are_right_whatever_the_cache_has_dropped(
    many: list[Json], kept: int, longest: int
) -> None:
    limits = Limits(cached_checks=kept, cached_check_bytes=longest)
    rows = [
        make_row(json.dumps([{"elements": elements}]), COMMAND["finishtime"]) for elements in many
    ]
    encoder = prepare_encoder(COMMAND, "x", rows[0], limits)
    for row in rows + rows:
        expected = encode_by_definition({**COMMAND, "results": row.results}, "x")
        assert json.loads(b"[%b]" % encoder.encode_row(row)) == expected


some_searches: list[JsonObject] = [{"paths": ["/p"]}, {"names": ["n"]}, {"paths": ["/\0"]}]
some_layouts = st.sampled_from(
    [
        [("a", 0), ("b", 1)],
        [("b", 1), ("a", 0)],
        [("a", 0), ("c", 1)],
        [("a", 1), ("b", 1)],
        [("a", 0), ("b", 2)],
        [("a", 0)],
        [("a\0b", 0)],
        [],
    ]
)
some_files = st.sampled_from([[""], ["/f"], ["/g"]] * 3 + [["/f", ""], ["/\0"], []])


@st.composite
def draw_elements(draw: st.DrawFn) -> JsonObject:
    """Draw elements of one of a few layouts, mostly with one file, or none, for each search."""
    return {
        label: [{"file": file, "search": some_searches[n]} for file in draw(some_files)]
        for label, n in draw(some_layouts)
    }


@given(
    many=st.lists(st.lists(draw_elements(), max_size=2), min_size=4, max_size=12),
    kept=st.sampled_from([1, 3, 4_096]),
)
def test_checks_are_right_whatever_the_commands_before_had_in_common(
    many: list[list[Json]], kept: int
) -> None:
    command = {**COMMAND, "operations": json.dumps([{"module": "file"}] * 2)}
    rows = [
        make_row(
            json.dumps([{"elements": elements} for elements in results]), COMMAND["finishtime"]
        )
        for results in many
    ]
    encoder = prepare_encoder(command, "x", rows[0], Limits(cached_checks=kept))
    for row in rows + rows:
        expected = encode_by_definition({**command, "results": row.results}, "x")
        assert json.loads(b"[%b]" % encoder.encode_row(row)) == expected


@pytest.mark.parametrize("name", ["file", "label", "search"])
def test_checks_that_never_recur_take_a_bounded_amount_of_memory(name: str) -> None:
    def row(n: int) -> ResultsRow:
        other = f"{n:01000d}"
        file = other if name == "file" else "f"
        search = {"paths": [other if name == "search" else "p"]}
        elements = {other if name == "label" else "l": [{"file": file, "search": search}]}
        return make_row(json.dumps([{"elements": elements}]), COMMAND["finishtime"])

    encoder = prepare_encoder(COMMAND, "x", row(0), Limits(cached_checks=10))
    tracemalloc.start()
    try:
        for n in range(500):
            assert encoder.encode_row(row(n))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 100_000  # 500 texts of 1,000 characters would be more than 500,000


COMMAND = {
    "action_name": "a",
    "description": '{"url":"u"}',
    "threat": '{"level":"l","type":"t","ref":"r"}',
    "operations": '[{"module":"file","parameters":{}}]',
    "finishtime": "2014-05-30 14:55:41+00",
}


@pytest.mark.parametrize(
    ("results_text", "reason"),
    [
        (r'[{"elements":{"a":[{"file":"\u0000"}]}}]', "U+0000"),
        (r'[{"elements":{},"x":"\ud800"}]', "the stored results cannot be read"),
        ('{"a":1}', "not an array"),
        ("[1]", "not an object"),
        ('[{"elements":{"a":[{"file":1}]}}]', "file is not a string"),
        ("[{},{}]", "2 results are stored for 1 operations"),
        ("[" * 3000 + "]" * 3000, "the stored results cannot be read"),
    ],
)
def test_an_unreadable_result_is_listed_in_the_report_with_a_reason(
    results_text: str, reason: str
) -> None:
    [item] = encode_fast({**COMMAND, "results": results_text}, "x'y")
    assert item["data"][0]["name"] == "unreadable command"
    value = item["data"][0]["value"]
    assert value["link"] == item["href"] == "http://localhost:1664/api/v1/command?commandid=3"
    assert value["target"] == "agents.name='x''y'"
    assert reason in value["reason"]


def test_a_check_names_the_filters_of_its_search_in_order() -> None:
    search = '{"sha1":["s"],"names":["n1","n2"],"paths":["/a","/b"],"sizes":["<1k"]}'
    results_text = '[{"elements":{"label":[{"file":"","search":%s},{"file":"/f","search":%s}]}}]'
    none, one = encode_fast({**COMMAND, "results": results_text % (search, search)}, "x")
    checks = [item["data"][0]["value"]["check"] for item in (none, one)]
    value = "name='n1' and name='n2' and size='<1k' and sha1='s'"
    assert [c["test"] for c in checks] == [{"type": "file", "value": value}] * 2
    assert [c["location"] for c in checks] == ["/a, /b", "/f"]
    assert [i["data"][0]["value"]["compliance"] for i in (none, one)] == [False, True]


def test_an_unreadable_path_matters_only_where_no_file_was_found() -> None:
    hit = r'{"file":"%s","search":{"paths":["\u0000"]}}'
    [found] = encode_fast({**COMMAND, "results": '[{"elements":{"a":[%s]}}]' % (hit % "/f")}, "x")
    assert found["data"][0]["value"]["check"]["location"] == "/f"
    [none] = encode_fast({**COMMAND, "results": '[{"elements":{"a":[%s]}}]' % (hit % "")}, "x")
    assert none["data"][0]["name"] == "unreadable command"


def test_another_module_shows_its_parameters_as_compact_json() -> None:
    operations = (
        '[{"module":"netstat","parameters":{"port": [ 631, 1.0 ], "big": 9007199254740993}}]'
    )
    command = {**COMMAND, "operations": operations, "results": '[{"foundanything":true}]'}
    [item] = encode_fast(command, "x")
    check = item["data"][0]["value"]["check"]
    assert check["test"] == {
        "type": "netstat",
        "value": '{"port":[631,1.0],"big":9007199254740993}',
    }
    assert (check["name"], check["location"]) == ("netstat", "")
