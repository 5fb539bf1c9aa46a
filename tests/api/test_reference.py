"""docs/reference.md says which permission each route needs."""

from __future__ import annotations

from pathlib import Path

from mig.api.routes import ROUTES, Route
from mig.model.permissions import ANY_CALLER

REFERENCE = Path(__file__).parents[2] / "docs" / "reference.md"


def describe_permission(route: Route) -> str:
    if route.permission is None:
        return "none: it is open"
    if route.permission == ANY_CALLER:
        return "none, but a caller"
    return f"`{route.permission.label}`"


def format_rows() -> list[str]:
    """Return the rows of the table, in the order of the routes."""
    return [
        f"| {route.method} | `{route.path.replace('<fingerprint>', 'FINGERPRINT')}` |"
        f" {describe_permission(route)} |"
        for route in ROUTES
    ]


def test_the_table_of_permissions_is_that_of_the_routes() -> None:
    section = REFERENCE.read_text().partition("\n## Permissions\n")[2].partition("\n## ")[0]
    assert [row for row in section.splitlines() if row.startswith("| ")][1:] == format_rows()
