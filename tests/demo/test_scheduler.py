"""The demo answers what is posted to it, as a scheduler of 2014 and its agents do."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import quote

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults

from mig.demo.fleet import load_fleet
from mig.demo.scheduler import MAX_OPERATIONS
from tests.support.api import Api
from tests.support.demo import Demo
from tests.support.json_types import Json

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
SERVERS = "agents.name LIKE 'web%' OR name = 'db1.prod.example.net'"
SEARCH = {"paths": ["/etc/ssh"], "names": ["^sshd_config$"], "contents": ["^LogLevel VERBOSE$"]}
OPERATIONS = [
    {"module": "file", "parameters": {"searches": {"verbose": SEARCH}}},
    {"module": "ping", "parameters": {"destination": "192.0.2.1"}},
]


async def search(api: Api, query: str) -> list[Json]:
    """Return the values of what a search finds."""
    found = await api.get_collection(f"/search?limit=100000&{query}")
    data = [item["data"][0] for item in found["items"]]
    return [each["value"] for each in data if each["name"] != "search parameters"]


@pytest_twisted.ensureDeferred
async def test_a_posted_action_is_answered_by_the_agents_of_its_target(
    api: Api, demo: Demo
) -> None:
    action = await demo.post_action(
        target=SERVERS, operations=OPERATIONS, threat={"family": "compliance"}
    )
    assert demo.list_files() == {action: "new"}
    await demo.run_scheduler()
    assert demo.list_files() == {action: "inflight"}
    targeted = await search(api, f"type=agent&target={quote(SERVERS)}")
    commands = await search(api, f"type=command&actionid={action}")
    assert {c["agent"]["id"] for c in commands} == {agent["id"] for agent in targeted}
    assert len(commands) == len(targeted) == 101
    assert {c["status"] for c in commands} == {"prepared"}
    assert (await demo.get_action(action))["status"] == "inflight"

    await demo.run_scheduler(3 * SECOND)
    moving = await demo.get_action(action)
    counters = moving["counters"]
    assert moving["status"] == "inflight"
    assert counters["sent"] == 101
    assert 0 < counters["success"] < 99 and counters["inflight"] > 1

    await demo.run_scheduler(7 * SECOND)
    completed = await demo.get_action(action)
    assert completed["status"] == "completed"
    expected = {"sent": 101, "done": 101, "success": 98, "timeout": 2, "failed": 1}
    assert completed["counters"] == expected
    assert demo.list_files() == {action: "done"}
    report = f"type=command&status=done&report=complianceitems&actionid={action}"
    items = await search(api, report)
    files = [item for item in items if item["check"]["test"]["type"] == "file"]
    assert len(files) == 98 and len(items) == 2 * 98
    assert {item["compliance"] for item in files} == {True, False}
    assert {item["check"]["location"] for item in files} == {"/etc/ssh/sshd_config", "/etc/ssh"}


@pytest_twisted.ensureDeferred
async def test_actions_posted_at_once_are_all_answered(demo: Demo) -> None:
    posts = [
        Deferred.fromCoroutine(demo.post_action(name=name, target="name LIKE 'web1.%'"))
        for name in ("One", "Two", "Three")
    ]
    actions = await gatherResults(posts)
    await demo.run_scheduler()
    await demo.run_scheduler(10 * SECOND)
    assert demo.list_files() == dict.fromkeys(actions, "done")
    for action in actions:
        assert (await demo.get_action(action))["counters"] == {"sent": 1, "done": 1, "success": 1}


@pytest.mark.parametrize(
    "members",
    [
        {"target": "name LIKE"},
        {"target": "no_such_column = 1"},
        {"target": "pg_sleep(1) IS NULL"},
        {"target": "name = 'nobody'"},
        {"operations": [{"module": "ping", "parameters": None}] * (MAX_OPERATIONS + 1)},
    ],
    ids=["not SQL", "not a column", "not a condition", "no agent", "too many operations"],
)
@pytest_twisted.ensureDeferred
async def test_an_action_that_cannot_run_is_invalid(demo: Demo, members: Json) -> None:
    action = await demo.post_action(**members)
    await demo.run_scheduler()
    assert (await demo.get_action(action))["status"] == "invalid"
    assert demo.list_files() == {action: "invalid"}


@pytest_twisted.ensureDeferred
async def test_an_action_waits_until_it_is_valid(demo: Demo) -> None:
    action = await demo.post_action(
        target="name LIKE 'web1.%'", validfrom=f"{demo.now + MINUTE:%FT%TZ}"
    )
    await demo.run_scheduler()
    assert demo.list_files() == {action: "new"}
    await demo.run_scheduler(MINUTE)
    assert demo.list_files() == {action: "inflight"}


@pytest_twisted.ensureDeferred
async def test_an_action_that_expired_before_it_began_is_invalid(demo: Demo) -> None:
    action = await demo.post_action(expireafter=f"{demo.now + MINUTE:%FT%TZ}")
    await demo.run_scheduler(MINUTE)
    assert (await demo.get_action(action))["status"] == "invalid"
    assert demo.list_files() == {action: "invalid"}


@pytest_twisted.ensureDeferred
async def test_commands_expire_with_their_action(demo: Demo) -> None:
    action = await demo.post_action(
        target="name LIKE 'web1%'", expireafter=f"{demo.now + 3 * SECOND:%FT%TZ}"
    )
    await demo.run_scheduler()
    await demo.run_scheduler(2 * SECOND)
    await demo.run_scheduler(timedelta(days=2))  # the demo was stopped in the meantime
    ended = await demo.get_action(action)
    assert ended["status"] == "completed"
    assert ended["finishtime"] == ended["expireafter"]
    assert set(ended["counters"]) == {"sent", "done", "success", "expired"}
    assert demo.list_files() == {action: "done"}


@pytest_twisted.ensureDeferred
async def test_a_scheduler_that_was_killed_is_continued(demo: Demo) -> None:
    taken, moved = [
        await demo.post_action(name=name, target="name LIKE 'web1.%'") for name in ("A", "B")
    ]
    # what is left behind by one that is killed after its first and after its second step
    demo.database.execute(
        "update actions set status = 'preparing' where id = any(%s::numeric[])", ([taken, moved],)
    )
    folder = demo.spool / "action"
    (folder / f"new/{moved}.json").rename(folder / f"inflight/{moved}.json")
    await demo.run_scheduler()
    await demo.run_scheduler(10 * SECOND)
    for action in (taken, moved):
        assert (await demo.get_action(action))["counters"] == {"sent": 1, "done": 1, "success": 1}
    # and by one that is killed before its last step
    (folder / f"done/{taken}.json").rename(folder / f"inflight/{taken}.json")
    await demo.run_scheduler()
    assert demo.list_files() == {taken: "done", moved: "done"}


@pytest_twisted.ensureDeferred
async def test_a_file_is_not_answered_twice(demo: Demo) -> None:
    action = await demo.post_action(target="name LIKE 'web1.%'")
    await demo.run_scheduler()
    await demo.run_scheduler(10 * SECOND)
    folder = demo.spool / "action"
    (folder / f"done/{action}.json").rename(folder / f"new/{action}.json")
    await demo.run_scheduler()
    assert demo.list_files() == {action: "invalid"}
    assert (await demo.get_action(action))["counters"] == {"sent": 1, "done": 1, "success": 1}


@pytest_twisted.ensureDeferred
async def test_files_that_are_not_of_an_action_are_invalid(demo: Demo) -> None:
    action = await demo.post_action(target="name LIKE 'web1.%'")
    folder = demo.spool / "action"
    (folder / f"new/{action}.json").write_text("{}")
    (folder / "new/notes.json").write_text("{}")
    (folder / "new/17.json").write_text("{}")
    await demo.run_scheduler()
    assert demo.list_files() == {action: "invalid", "notes": "invalid", "17": "invalid"}
    assert (await demo.get_action(action))["status"] == "invalid"


@pytest_twisted.ensureDeferred
async def test_what_users_added_stays_when_the_demo_starts_again(api: Api, demo: Demo) -> None:
    action = await demo.post_action(target="name LIKE 'web1.%'")

    async def list_results() -> list[Json]:
        commands = await search(api, f"type=command&actionid={action}")
        return [(each["id"], each["status"], each["results"]) for each in commands]

    await demo.run_scheduler()
    await demo.run_scheduler(10 * SECOND)
    before = await list_results()
    assert load_fleet(demo.database.dsn, demo.now + timedelta(days=30)) is False
    assert await list_results() == before
    [alice] = await search(api, "type=investigator&investigatorname=alice")
    assert alice["status"] == "active"
    again = await demo.post_action(name="Once more", target="name LIKE 'web1.%'")
    assert again != action


@pytest_twisted.ensureDeferred
async def test_an_agent_of_somebody_else_does_not_answer(demo: Demo) -> None:
    demo.database.execute(
        "insert into agents (id, name, queueloc, version, pid, starttime, heartbeattime, status)"
        " values (5, 'other', 'q', 'v', 1, now(), now(), 'heartbeating')"
    )
    action = await demo.post_action(
        target="name = 'other'", expireafter=f"{demo.now + MINUTE:%FT%TZ}"
    )
    await demo.run_scheduler()
    await demo.run_scheduler(30 * SECOND)
    assert (await demo.get_action(action))["status"] == "inflight"
    await demo.run_scheduler(30 * SECOND)
    assert (await demo.get_action(action))["counters"] == {"sent": 1, "done": 1, "expired": 1}
