"""The tables of docs/reference.md and docs/limits.md, made from those of the program.

``python -m tests.support.reference`` writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from mig.api.descriptions import describe_statuses, list_common_errors
from mig.api.route import Route
from mig.api.routes import ROUTES
from mig.limits import Limits
from mig.model.permissions import ANY_CALLER
from mig.model.record import Record
from mig.search.audit import AUDIT_PARAMETERS
from mig.search.parameters import DOCUMENT_PARAMETERS, PARAMETERS, SEARCH_TYPES, Parameter
from mig.service.limit_values import describe_limits

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "reference.md"
LIMITS_PAGE = DOCS / "limits.md"
Rows = Iterable[Sequence[str]]


def list_routes() -> Rows:
    """Yield what each route needs, answers and may answer besides what all may."""
    yield "method", "path", "permission", "answer", "statuses"
    for route in ROUTES:
        yield (
            route.method,
            f"`{format_path(route)}`",
            describe_permission(route),
            route.description.meaning,
            ", ".join(str(status.value) for status in list_own_statuses(route)),
        )


def format_path(route: Route) -> str:
    path = route.path
    for name in route.description.path_parameters:
        path = path.replace(f"<{name}>", name.upper())
    return "&".join([path, *(f"{each}=" for each in route.description.required)]).replace(
        "&", "?", 1
    )


def describe_permission(route: Route) -> str:
    if route.permission is None:
        return "none: it is open"
    if route.permission == ANY_CALLER:
        return "none, but a caller"
    return f"`{route.permission.label}`"


def list_own_statuses(route: Route) -> list[HTTPStatus]:
    """Return the statuses that not every route of its kind may answer."""
    common = list_common_errors(
        needs_caller=route.permission is not None, has_body=route.description.form is not None
    )
    own = {error.status for error in route.description.errors} - {e.status for e in common}
    return [route.description.answer.status, *sorted(own)]


def list_parameters(parameters: Iterable[Parameter]) -> Rows:
    yield "parameter", "value", "meaning"
    for parameter in parameters:
        yield parameter.name, parameter.values, parameter.meaning


def list_search_parameters() -> Rows:
    yield "parameter", "of", "value", "meaning"
    for parameter in PARAMETERS:
        searches = "" if parameter.types == SEARCH_TYPES else ", ".join(parameter.types)
        yield parameter.name, searches, parameter.values, parameter.meaning


def list_document_parameters() -> Rows:
    yield "parameter", "value", "formats", "meaning"
    for parameter in DOCUMENT_PARAMETERS.values():
        formats = ", ".join(parameter.formats or ())
        yield parameter.name, parameter.values, formats, parameter.meaning


def list_form_fields() -> Rows:
    yield "form", "field", "", "value"
    for route in ROUTES:
        form = route.description.form
        for data in form.template.data if form else ():
            is_optional = form is not None and data.name in form.optional
            presence = "optional" if is_optional else ""
            yield f"`{route.path}`", data.name, presence, data.prompt or ""


def list_records() -> Rows:
    """Yield each kind of record with its members and their types."""
    yield "record", "members"
    records = dict.fromkeys(
        record for route in ROUTES for record in route.description.answer.records
    )
    for record in records:
        yield record.noun, ", ".join(describe_members(record))


def describe_members(record: type[Record]) -> Iterator[str]:
    schemas = record.build_json_schema()
    schema: Any = schemas[record.__name__]
    for name, member in schema["properties"].items():
        presence = "" if name in schema.get("required", ()) else "?"
        yield f"`{name}`{presence} {describe_type(member)}".rstrip()


def describe_type(schema: Any) -> str:
    """Return the type of a member in words."""
    if schema.get("format") == "date-time":
        return "time"
    if "anyOf" in schema:
        return " or ".join(map(describe_type, schema["anyOf"]))
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if schema.get("minimum") == 1 and "pattern" in schema:
        return "id or null" if "null" in schema["type"] else "id"
    if schema.get("type") == "array":
        return f"array of {describe_type(schema['items'])}"
    return str(schema.get("type", "JSON"))


def list_statuses() -> Rows:
    yield "status", "when"
    for status, meaning in describe_statuses(Limits()).items():
        yield str(status.value), meaning


def list_limits() -> Rows:
    yield "limit", "default", "accepted", "changed by", "bounds"
    yield from describe_limits()


TABLES: dict[str, Callable[[], Rows]] = {
    "routes": list_routes,
    "search": list_search_parameters,
    "audit": lambda: list_parameters(AUDIT_PARAMETERS),
    "documents": list_document_parameters,
    "forms": list_form_fields,
    "records": list_records,
    "statuses": list_statuses,
}
"""The tables of the reference, by the name in the comment before each."""
LIMIT_TABLES: dict[str, Callable[[], Rows]] = {"limits": list_limits}


def build_table(rows: Rows) -> str:
    head, *others = rows
    lines = [head, ["---"] * len(head), *others]
    return "".join(f"| {' | '.join(cells)} |\n".replace("|  |", "| |") for cells in lines)


def replace_tables(page: str, tables: Mapping[str, Callable[[], Rows]] = TABLES) -> str:
    """Return the page with the current tables."""
    for name, list_rows in tables.items():
        mark = f"<!-- table: {name} -->\n"
        before, found, after = page.partition(mark)
        assert found, f"the page has no {mark}"
        lines = after.splitlines(keepends=True)
        end = next(i for i, line in enumerate(lines) if not line.startswith("|"))
        page = before + mark + build_table(list_rows()) + "".join(lines[end:])
    return page


def main() -> None:
    """Write the tables."""
    PAGE.write_text(replace_tables(PAGE.read_text()))
    LIMITS_PAGE.write_text(replace_tables(LIMITS_PAGE.read_text(), LIMIT_TABLES))


if __name__ == "__main__":
    main()
