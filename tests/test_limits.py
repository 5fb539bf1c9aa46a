"""The limits of the program are those of the documentation, and can be set."""

from __future__ import annotations

import ast
from dataclasses import fields
from pathlib import Path

import pytest

import mig
from mig.api.route import BodyPolicy
from mig.errors import ConfigError
from mig.limits import BOUNDS, Limits
from mig.service.config_file import parse_config
from mig.service.limit_values import format_limit, parse_limit
from tests.support.reference import LIMIT_TABLES, LIMITS_PAGE, replace_tables


def test_every_limit_is_in_the_documentation() -> None:
    page = LIMITS_PAGE.read_text()
    assert replace_tables(page, LIMIT_TABLES) == page, "run `make reference`"


@pytest.mark.parametrize("name", BOUNDS)
def test_the_default_and_both_ends_of_a_limit_can_be_set(name: str) -> None:
    bound = BOUNDS[name]
    for value in (bound.low, getattr(Limits(), name), bound.high):
        assert bound.low <= value <= bound.high
        assert parse_limit(name, format_limit(name, value)) == value


def test_the_section_sets_the_field_with_the_name_of_the_key() -> None:
    config = parse_config(
        """
        [limits]
        rate = 0.5
        burst = "20"
        loopback = on
        stream_seconds = 1h30m
        wanted_pause_seconds = 50ms
        key_body_bytes = 2048
        """
    )
    assert config.limits == Limits(
        rate=0.5,
        burst=20,
        loopback=True,
        stream_seconds=5400,
        wanted_pause_seconds=0.05,
        key_body_bytes=2048,
    )
    for each in fields(Limits):
        assert type(getattr(config.limits, each.name)).__name__ in (each.type, "int")


def test_keys_of_older_files_set_limits() -> None:
    limits = parse_config("[server]\nactionsize = 2048\nkeysize = 4096").limits
    assert limits == Limits(action_body_bytes=2048, key_body_bytes=4096)


def test_a_wrong_limit_is_refused_with_what_is_accepted() -> None:
    text = """
        [limits]
        rate = fast
        burst = 0
        streams = 1.5
        loopback = maybe
        stream_seconds = 60
        stall_seconds = 2h
        key_body_bytes = 64k
        client_share = 2
        bursts = 1
        xyz = 1
        [server]
        actionsize = 1
        """
    with pytest.raises(ConfigError) as told:
        parse_config(text)
    assert str(told.value).split("; ") == [
        "[limits] rate must be a number from 0.01 to 1000000",
        "[limits] burst must be a whole number from 1 to 1000000",
        "[limits] streams must be a whole number from 1 to 100000",
        "[limits] loopback must be on or off",
        "[limits] stream_seconds must be a duration from 1s to 7d, such as 30s, 10m or 1h30m",
        "[limits] stall_seconds must be a duration from 1s to 1h, such as 30s, 10m or 1h30m",
        "[limits] key_body_bytes must be a whole number of bytes from 1024 to 1048576",
        "[limits] client_share must be a number from 0.01 to 1",
        "[limits] bursts is not a key: did you mean burst?",
        "[limits] xyz is not a key: docs/limits.md lists all of them",
        "[server] actionsize must be a whole number of bytes from 1024 to 67108864",
    ]


def test_only_limits_that_are_not_fixed_change_while_the_service_runs() -> None:
    limits = Limits()
    limits.change(Limits(rate=1, connections=100))
    assert limits == Limits(rate=1)


FOR_ONE_REQUEST = {
    f"mig/compliance/{name}.py"
    for name in ("encoder", "file_checks", "filechecker_checks", "summary")
}
"""Modules whose objects live as long as a request, so that the next one has the new limit."""
AT_THE_START = {
    "__init__",
    "_make_semaphore",
    "make_site",
    "make_admin_site",
    "fit_limits",
    "count_needed_descriptors",
    "count_processes",
}


def find_limits_read_at_the_start(module: Path) -> set[str]:
    """Return the limits that a module reads where something is made."""
    names = set()
    for function in ast.walk(ast.parse(module.read_text())):
        if isinstance(function, ast.FunctionDef) and function.name in AT_THE_START:
            names |= {
                node.attr
                for node in ast.walk(function)
                if isinstance(node, ast.Attribute)
                and ast.unparse(node.value).removeprefix("self.").lstrip("_")
                in ("limits", "limits or Limits()")
            }
    return names & set(BOUNDS)


def test_a_limit_that_is_read_at_the_start_is_fixed() -> None:
    """Everything else reads a limit when it needs it, and notices a change."""
    package = Path(mig.__file__).parent
    read = {
        name
        for module in package.rglob("*.py")
        if str(module.relative_to(package.parent)) not in FOR_ONE_REQUEST
        for name in find_limits_read_at_the_start(module)
    }
    body_sizes = {policy.value for policy in BodyPolicy}  # the routes are made at the start
    assert {name for name, bound in BOUNDS.items() if bound.is_fixed} == read | body_sizes
