"""A program that knows only the description of the API finds it to be true."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from mig.model.permissions import ALL_PERMISSIONS
from mig.search.order import SORT_COLUMNS
from mig.search.parameters import REPORT_NAMES, find_parameter
from mig.search.records import REPORT_RECORDS, TYPE_RECORDS
from tests.support import fleet
from tests.support.api import Api
from tests.support.callers import add_api_key, add_investigator
from tests.support.json_types import Json
from tests.support.postgres import TestDatabase
from tests.support.programs import find_program
from tests.support.properties import REPETITIONS

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
VALUES = {
    **{f"{table[:-1]}id": [row["id"] for row in fleet.FLEET[table]] for table in fleet.TABLES},
    "after": ["0001-01-01T00:00:00Z", "-1d12h"],
    "limit": [1, 3, 20],
    "cursor": [""],
    "target": ["status='online'", "id > 0"],
}
"""Values by which requests find something in the fleet."""
NEEDED = {"format", "type", "report", "after"}


def shorten(schema: Json) -> Json:
    """Return the schema of fewer and shorter texts: all must fit into a line of 16 KiB."""
    if schema.get("type") == "array":
        return {**schema, "items": shorten(schema["items"]), "maxItems": 2}
    if schema.get("type") == "object":
        members = {name: shorten(each) for name, each in schema["patternProperties"].items()}
        return {**schema, "patternProperties": members, "maxProperties": 2}
    return {**schema, "maxLength": 16} if "maxLength" in schema else schema


class Kind(NamedTuple):
    """The requests of a run: their parameters fit together."""

    format: str
    type: str
    report: str = ""

    def choose_values(self, name: str) -> list[object] | None:
        """Return the values of a parameter; ``None`` for all that it takes."""
        columns = [column.name for column in SORT_COLUMNS[self.type]]
        record = REPORT_RECORDS[self.report] if self.report else TYPE_RECORDS[self.type]
        values: dict[str, list[object]] = {
            **VALUES,
            "format": [self.format],
            "type": [self.type],
            "report": [self.report],
            "fields": [record.__struct_encode_fields__[-1]],
            "sort": [sign + name for sign in ("", "-") for name in columns],
        }
        return values.get(name)

    def has_parameter(self, name: str) -> bool:
        try:
            parameter = find_parameter(name)
        except KeyError:
            return True
        return (
            self.type in parameter.types
            and self.format in (parameter.formats or [self.format])
            and self.report in (parameter.reports or [self.report])
        )

    def narrow(self, described: Json) -> Json:
        """Return a description in which every parameter has values that fit."""
        described = copy.deepcopy(described)
        for operations in described["paths"].values():
            for operation in operations.values():
                operation["security"] = []  # otherwise, other credentials than the test's are sent
                chosen = [p for p in operation["parameters"] if self.has_parameter(p["name"])]
                operation["parameters"] = [self.narrow_parameter(p) for p in chosen]
        return described

    def narrow_parameter(self, parameter: Json) -> Json:
        values = self.choose_values(parameter["name"])
        if values is None:
            return {**parameter, "schema": shorten(parameter["schema"])}
        is_needed = parameter["required"] or parameter["name"] in NEEDED
        return {**parameter, "schema": {"enum": values}, "required": is_needed}


KINDS = [
    *(Kind("collection", "command", report) for report in REPORT_NAMES),
    *(Kind("ndjson", "command", report) for report in REPORT_NAMES),
    *(Kind("csv", type_) for type_ in ("agent", "action")),
    *(Kind("collection", type_) for type_ in ("agent", "command", "investigator")),
]


@pytest_twisted.async_yield_fixture
async def closed_api(database: TestDatabase, tmp_path: Path) -> AsyncIterator[Api]:
    """Return an API of the recorded fleet that requires credentials."""
    fleet.load_fleet(database.dsn)
    database.execute("select setval('investigators_id_seq', 1000)")
    api = Api(database.dsn, tmp_path / "spool", authentication=True)
    yield api
    await api.stop()


@pytest.mark.parametrize("kind", KINDS if REPETITIONS > 1 else KINDS[:1], ids=" ".join)
@pytest_twisted.ensureDeferred
async def test_no_request_gets_an_answer_that_is_not_described(
    closed_api: Api, database: TestDatabase, tmp_path: Path, kind: Kind
) -> None:
    """With REPETITIONS it also tries the bounds of every value."""
    key = add_api_key(database, add_investigator(database, permissions=ALL_PERMISSIONS))
    described = json.loads((await closed_api.get("/openapi.json")).body)
    (tmp_path / "openapi.json").write_text(json.dumps(kind.narrow(described)))
    phases = "examples,coverage,fuzzing" if REPETITIONS > 1 else "fuzzing"
    command = [
        *(find_program("schemathesis"), "--no-color", "run", "openapi.json"),
        *("--url", closed_api.base),
        *("--header", f"X-MIGAPIKEY: {key}", "--checks", ",".join(CHECKS), "--phases", phases),
        *("--max-examples", str(REPETITIONS), "--continue-on-failure", "--seed", "1"),
        *("--generation-database", "none", "--warnings", "off"),
    ]
    done = await deferToThread(
        lambda: subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    operations = [operation for path in described["paths"].values() for operation in path.values()]
    answered = {(event.route, event.method) for event in closed_api.ended if event.route}
    assert len(answered) >= len(operations)
    search = [event.status for event in closed_api.ended if event.route == "/search"]
    assert 200 in search
