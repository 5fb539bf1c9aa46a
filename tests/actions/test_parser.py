"""Large actions are parsed by another process, exactly as small ones are parsed here."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator, Sequence
from io import BytesIO
from pathlib import Path
from urllib.parse import quote_plus

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred

from mig.actions.parser import ActionParser
from mig.actions.parser_process import GROWING_BYTES
from mig.actions.parser_worker import parse_action
from mig.actions.submission import Submission
from mig.errors import InvalidInputError, UnavailableError
from mig.limits import Limits
from mig.web.forms import ContentType
from tests.support.fleet import VECTORS
from tests.support.json_types import Json, JsonObject
from tests.support.reactor import reactor, record_log, wait_until
from tests.support.submissions import list_parsers, make_action

ACTIONS = [path.read_text() for path in sorted((VECTORS / "actions").glob("*.json"))]
JSON = ContentType(media_type="application/json", parameters={})
FORM = ContentType(media_type="application/x-www-form-urlencoded", parameters={})
MULTIPART = ContentType(media_type="multipart/form-data", parameters={"boundary": "b"})
HERE = Limits()
"""Every action of these tests is small."""
THERE = Limits(inline_action_bytes=0)
"""Every action is large."""
ONE = Limits(inline_action_bytes=0, large_actions=1)

Body = tuple[ContentType, bytes]


def encode_bodies(action: str) -> list[Body]:
    """Return the bodies that submit an action."""
    template = {"template": {"data": [{"name": "action", "value": json.loads(action)}]}}
    part = f'--b\r\nContent-Disposition: form-data; name="action"\r\n\r\n{action}\r\n--b--\r\n'
    return [
        (FORM, f"action={quote_plus(action)}".encode()),
        (MULTIPART, part.encode()),
        (JSON, action.encode()),
        (JSON, json.dumps({"action": action}).encode()),
        (JSON, json.dumps(template).encode()),
    ]


class Parsers:
    """Parsers that end with the test."""

    def __init__(self) -> None:
        self._made: list[ActionParser] = []

    def make(self, limits: Limits) -> ActionParser:
        self._made.append(ActionParser(reactor, limits=limits))
        return self._made[-1]

    async def stop(self) -> None:
        for parser in self._made:
            await parser.stop()


@pytest_twisted.async_yield_fixture
async def parsers() -> AsyncIterator[Parsers]:
    made = Parsers()
    yield made
    await made.stop()
    assert list_parsers(os.getpid()) == []


async def parse(parser: ActionParser, body: Body, client: str = "client") -> Submission:
    async with parser.open(body[0], BytesIO(body[1]), client) as opened:
        submission = await opened.parse()
        assert opened.signatures == submission.signatures
        return submission


@pytest.mark.parametrize("action", ACTIONS, ids=range(len(ACTIONS)))
@pytest_twisted.ensureDeferred
async def test_the_other_process_returns_the_same_action(parsers: Parsers, action: str) -> None:
    here, there = parsers.make(HERE), parsers.make(ONE)
    for body in encode_bodies(action):
        assert await parse(there, body) == await parse(here, body)
    assert len(list_parsers(os.getpid())) == 1  # one after the other


REFUSED: Sequence[Json] = [
    "{",
    [],
    make_action(),
    make_action(pgpsignatures=["AAAA"]),
    make_action(Name="x", pgpsignatures=["AAAA"]),
]


@pytest.mark.parametrize("action", REFUSED, ids=range(len(REFUSED)))
@pytest_twisted.ensureDeferred
async def test_the_other_process_refuses_with_the_same_message(
    parsers: Parsers, action: Json
) -> None:
    text = action if isinstance(action, str) else json.dumps(action)
    body = (FORM, f"action={quote_plus(text)}".encode())
    refusals = []
    for limits in (HERE, THERE):
        with pytest.raises(InvalidInputError) as refused:
            await parse(parsers.make(limits), body)
        refusals.append((str(refused.value), refused.value.where))
    assert refusals[0] == refusals[1]


def sign(**members: Json) -> JsonObject:
    """Return an action with members changed, and the signatures of a recorded one."""
    recorded = json.loads(ACTIONS[0])
    return {**make_action(**members), "pgpsignatures": recorded["pgpsignatures"]}


@pytest_twisted.ensureDeferred
async def test_signatures_come_before_the_rest_is_looked_at(parsers: Parsers) -> None:
    """So an unknown key costs nothing more, and the process is free for the next action."""
    parser = parsers.make(ONE)
    wrong = (JSON, json.dumps(sign(operations=[{"module": 1}])).encode())
    async with parser.open(wrong[0], BytesIO(wrong[1]), "client") as opened:
        assert len(opened.signatures) == 1
        first = list_parsers(os.getpid())
    with pytest.raises(InvalidInputError, match="module must be a string"):
        await parse(parser, wrong)
    await parse(parser, (JSON, ACTIONS[0].encode()))
    assert list_parsers(os.getpid()) == first


@pytest_twisted.ensureDeferred
async def test_a_process_that_dies_costs_one_action(parsers: Parsers) -> None:
    parser = parsers.make(ONE)
    body = (JSON, ACTIONS[0].encode())
    with record_log() as log:
        async with parser.open(body[0], BytesIO(body[1]), "client") as opened:
            (worker,) = list_parsers(os.getpid())
            os.kill(worker, signal.SIGKILL)
            with pytest.raises(UnavailableError, match="cannot be parsed at the moment"):
                await opened.parse()
    assert [line for line in log.lines if "the process that parses large actions" in line]
    await parse(parser, body)
    (idle,) = list_parsers(os.getpid())
    os.kill(idle, signal.SIGKILL)
    await wait_until(lambda: not Path(f"/proc/{idle}").exists())  # the service has noticed
    await parse(parser, body)


@pytest_twisted.ensureDeferred
async def test_a_process_that_takes_too_long_is_killed(parsers: Parsers) -> None:
    """Python alone takes longer than this to start."""
    parser = parsers.make(Limits(inline_action_bytes=0, parser_seconds=0.001))
    with pytest.raises(UnavailableError) as refused:
        await parse(parser, (JSON, ACTIONS[0].encode()))
    assert "longer than 0.001 s" in refused.value.detail
    await wait_until(lambda: not list_parsers(os.getpid()))


@pytest_twisted.ensureDeferred
async def test_an_action_whose_client_leaves_frees_its_place(parsers: Parsers) -> None:
    parser = parsers.make(ONE)
    leaving = Deferred.fromCoroutine(parse(parser, (JSON, ACTIONS[0].encode())))
    leaving.cancel()
    with pytest.raises(CancelledError):
        await leaving
    await parse(parser, (JSON, ACTIONS[0].encode()))


@pytest_twisted.ensureDeferred
async def test_an_idle_process_ends(parsers: Parsers) -> None:
    parser = parsers.make(Limits(inline_action_bytes=0, parser_idle_seconds=0.01))
    await parse(parser, (JSON, ACTIONS[0].encode()))
    await wait_until(lambda: not list_parsers(os.getpid()))
    await parse(parser, (JSON, ACTIONS[0].encode()))


@pytest_twisted.ensureDeferred
async def test_the_memory_of_a_large_action_goes_back(parsers: Parsers) -> None:
    """A process that has grown is not used again."""
    parser = parsers.make(ONE)
    text = "x" * GROWING_BYTES
    body = (JSON, json.dumps(sign(operations=[{"module": "m", "parameters": text}])).encode())
    submission = await parse(parser, body)
    assert text.encode() in submission.signable.operations
    await wait_until(lambda: not list_parsers(os.getpid()))


@pytest_twisted.ensureDeferred
async def test_few_large_actions_are_handled_at_once(parsers: Parsers) -> None:
    limits = Limits(
        inline_action_bytes=1000, large_actions=1, waiting_actions=2, action_wait_seconds=0.05
    )
    parser = parsers.make(limits)
    large = (JSON, json.dumps(sign(name="x" * 1500)).encode())
    async with parser.open(large[0], BytesIO(large[1]), "mallory") as opened:
        await opened.parse()
        late = [Deferred.fromCoroutine(parse(parser, large, who)) for who in "aab"]
        # the newest of the client with most is refused at once, and the others when they are late
        assert late[1].called and not (late[0].called or late[2].called)
        for waiting in late:
            with pytest.raises(UnavailableError, match="too many actions are being submitted"):
                await waiting
        small = (JSON, b"{}")
        with pytest.raises(InvalidInputError):
            await parse(parser, small, "mallory")  # a small one never waits
    await parse(parser, large)


VALUES = 1_000


def make_values(count: int) -> str:
    """Return an action of so many values."""
    # beside these: the action, its name, operations, operation, module, parameters
    operation = {"module": "file", "parameters": [0] * (count - 6)}
    return json.dumps({"name": "[,{", "operations": [operation]})


@pytest.mark.parametrize("form", range(5))
def test_an_action_has_a_bounded_number_of_values(form: int) -> None:
    """Whatever body submits it, what is around the action does not count."""
    action = parse_action(*encode_bodies(make_values(VALUES))[form], VALUES)
    assert len(action["operations"][0]["parameters"]) == VALUES - 6
    with pytest.raises(InvalidInputError, match=f"action holds more than {VALUES} values"):
        parse_action(*encode_bodies(make_values(VALUES + 1))[form], VALUES)


def test_an_action_has_at_most_200000_values() -> None:
    assert Limits().action_values == 200_000


@pytest_twisted.ensureDeferred
async def test_operations_are_bounded_as_they_are_signed(parsers: Parsers) -> None:
    """Each < is signed as six characters."""
    limits = Limits(action_body_bytes=4_096)
    for parser in (
        parsers.make(limits),
        parsers.make(Limits(inline_action_bytes=0, action_body_bytes=4_096)),
    ):
        fits = sign(operations=[{"module": "m", "parameters": "<" * 600}])
        await parse(parser, (JSON, json.dumps(fits).encode()))
        longer = sign(operations=[{"module": "m", "parameters": "<" * 700}])
        with pytest.raises(InvalidInputError, match="at most 4096 bytes as they are signed"):
            await parse(parser, (JSON, json.dumps(longer).encode()))


@pytest_twisted.ensureDeferred
async def test_a_stopped_parser_takes_no_large_action(parsers: Parsers) -> None:
    parser = parsers.make(ONE)
    await parse(parser, (JSON, ACTIONS[0].encode()))
    await parser.stop()
    with pytest.raises(UnavailableError):
        await parse(parser, (JSON, ACTIONS[0].encode()))
