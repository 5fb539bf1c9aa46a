"""The examples of docs/client.md run as they are, each in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from mig.model.permissions import ALL_PERMISSIONS
from tests.support import fleet
from tests.support.api import Api
from tests.support.callers import add_api_key, add_investigator
from tests.support.keys import Keys
from tests.support.postgres import TestDatabase

PAGE = Path(__file__).parents[2] / "docs" / "client.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
COMPLETE = """
create function complete() returns trigger language plpgsql as $$ begin
    new.status := 'completed';
    return new;
end $$;
create trigger complete before insert on actions for each row execute function complete();
"""


def run_script(text: str) -> str:
    """Return what a script prints."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", text], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
@pytest_twisted.ensureDeferred
async def test_an_example_of_the_page_runs(database: TestDatabase, keys: Keys, number: int) -> None:
    agent = fleet.make_agent(1, name="agent1", os="linux", heartbeattime="now")
    fleet.insert_rows(database.dsn, "agents", [agent])
    investigator = add_investigator(database, "Alice", keys.alice, ALL_PERMISSIONS)
    key = add_api_key(database, investigator)
    database.execute(COMPLETE)
    api = Api(database.dsn, handoff="database", authentication=True)
    signer = f'"{keys.alice.fingerprint}", home="{keys.home}"'
    text = EXAMPLES[number].replace("https://mig.example.com/api/v1", api.base)
    text = text.replace("API-KEY", key).replace('"FINGERPRINT"', signer)
    try:
        printed = await deferToThread(run_script, text)
    finally:
        await api.stop()
    if "agent.version" in text:
        assert printed.startswith("1 agent1 1\n")
    if "targets" in text:
        assert printed.startswith("it will run on 1 agents\n")
    if "asyncio" in text:
        assert printed == "1\n"


BLOCKING = """
from threading import Thread

from mig.client import NotFoundError
from mig.client.blocking import MIGClient
from mig.client.signer import Action

with MIGClient("URL") as client:
    found = list(client.search("agent", after="-36000d"))
    assert len(found) == COUNT, found
    assert client.agent(found[0].id) == found[0]
    for agent in client.search("agent", after="-36000d"):
        break
    assert client.dashboard().actions and client.home().queries
    command = next(client.search("command", after="-36000d"))
    assert client.command(command.id).id == command.id
    assert client.action(command.action.id).name == command.action.name
    items = client.compliance_items(after="-36000d")
    assert next(items).check.name
    items.close()
    *_, totals = client.compliance_summary(groupby="policy", after="-36000d")
    assert totals.group == {}
    investigator = client.create_investigator("a program", "", {"search": True})
    assert client.update_investigator(investigator.id, status="disabled").status == "disabled"
    assert client.investigator(investigator.id).status == "disabled"
    counts = []
    def count_items():
        counts.append(len(list(client.compliance_items(after="-36000d"))))
    threads = [Thread(target=count_items) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(counts) == 2 and counts[0] == counts[1] > 0, counts
    try:
        client.action(4096)
    except NotFoundError as reason:
        print(reason.status)
"""


@pytest_twisted.ensureDeferred
async def test_a_plain_script_waits_for_each_answer(api: Api, database: TestDatabase) -> None:
    fleet.load_fleet(database.dsn)
    count = str(len(fleet.FLEET["agents"]))
    text = BLOCKING.replace("URL", api.base).replace("COUNT", count)
    assert await deferToThread(run_script, text) == "404\n"


RUNNING = """
from twisted.internet import reactor
from mig.client.blocking import MIGClient

def start():
    try:
        MIGClient("http://localhost")
    except RuntimeError as reason:
        print(reason)
    reactor.stop()

reactor.callWhenRunning(start)
reactor.run()
"""


def test_a_program_that_runs_the_reactor_itself_is_told_what_to_use() -> None:
    assert "use mig.client.MIGClient" in run_script(RUNNING)


def test_the_library_installs_no_reactor_when_it_is_imported() -> None:
    text = "import sys, mig.client.signer; print('twisted.internet.reactor' in sys.modules)"
    assert run_script(text) == "False\n"
