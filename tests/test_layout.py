"""Shared code of the tests is in tests/support, and fixtures are in conftest.py."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
MODULES = sorted(TESTS.rglob("*.py"))


def find_imports(module: Path) -> Iterator[str]:
    """Yield what a module imports, each name with its package."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = "." * node.level + (node.module or "")
            yield from (f"{package}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(TESTS)))
def test_tests_share_code_only_through_tests_support(module: Path) -> None:
    for name in find_imports(module):
        assert not name.startswith("."), f"{name} is relative"
        if name.partition(".")[0] in ("tests", "conftest"):
            assert name.startswith("tests.support."), name


@pytest.mark.parametrize(
    "module", sorted(TESTS.rglob("conftest.py")), ids=lambda path: str(path.relative_to(TESTS))
)
def test_a_conftest_defines_only_fixtures(module: Path) -> None:
    for node in ast.parse(module.read_text()).body:
        assert not isinstance(node, ast.ClassDef | ast.Assign | ast.AnnAssign), node.lineno
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
            assert any("fixture" in decorator for decorator in decorators), node.name
