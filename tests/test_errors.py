"""Errors say which headers they have, and keep nothing that is large."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from mig.errors import (
    InvalidInputError,
    MethodNotAllowedError,
    NotFoundError,
    RequestError,
    TooManyRequestsError,
    UnauthorizedError,
    UnavailableError,
    drop_traceback,
)


class Large:
    pass


@pytest.fixture(autouse=True)
def no_collection() -> Iterator[None]:
    """Only references keep anything alive, and cycles for ever."""
    gc.disable()
    yield
    gc.enable()


def test_an_error_keeps_no_variable_of_the_functions_that_raised_it() -> None:
    alive: list[weakref.ref[Large]] = []

    def check(large: Large) -> None:
        alive.append(weakref.ref(large))
        try:
            raise InvalidInputError("first")
        except InvalidInputError as reason:
            kept = [reason, large]  # as a list of reasons does: a cycle
            raise InvalidInputError(f"second after {len(kept)}") from None

    def handle() -> None:
        try:
            check(Large())
        except InvalidInputError as error:
            assert alive[0]() is not None
            drop_traceback(error)
            assert alive[0]() is None
            assert error.__context__ is not None
            assert str(error) == "second after 2"

    handle()


@pytest.mark.parametrize(
    "error",
    [
        MethodNotAllowedError("PUT", "GET"),
        NotFoundError("there is none"),
        TooManyRequestsError("too many", 1, ((b"ratelimit", b""), (b"ratelimit-policy", b""))),
        UnauthorizedError("who?"),
        UnavailableError("later"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_has_the_headers_that_are_described(error: RequestError) -> None:
    names = [name.decode() for name, _ in error.headers]
    assert names == [name.lower() for name in error.header_names]
