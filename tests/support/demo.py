"""The demo's fleet in a test database, its scheduler, and a clock that a test moves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from psycopg2.extensions import make_dsn

from mig.database.database import Database
from mig.database.schema.declaration import API_ROLE
from mig.demo.scheduler import Scheduler
from tests.support.api import Api
from tests.support.json_types import Json, JsonObject
from tests.support.keys import Keys
from tests.support.postgres import TestDatabase
from tests.support.reactor import reactor
from tests.support.submissions import assert_accepted, build_text, make_action

NOW = datetime(2098, 5, 30, 14, 40, tzinfo=UTC)
"""A time after every real one, so that the default windows of searches include it."""


class Demo:
    """The fleet and the scheduler of a demo whose time of day stands still between steps."""

    def __init__(self, api: Api, database: TestDatabase, keys: Keys) -> None:
        assert api.spool
        self.now = NOW
        self.database = database
        self.spool = api.spool
        self._api = api
        self._keys = keys
        self._databases = [
            Database(reactor, database.dsn),
            Database(reactor, make_dsn(database.dsn, user=API_ROLE)),
        ]

    async def add_investigator(self) -> None:
        """Make Alice an investigator, as a user does."""
        data = {"name": "Alice", "publickey": self._keys.alice.armored}
        answer = await self._api.request("POST", "/investigator/create/", data=data)
        assert answer.code == 201, answer.body

    async def post_action(self, **members: Json) -> str:
        """Post an action that Alice has signed, and return its id."""
        action: JsonObject = make_action(**members)
        signature = self._keys.sign(self._keys.alice, build_text(action, "unix"))
        stored = await assert_accepted(self._api, {**action, "pgpsignatures": [signature]})
        return str(stored["id"])

    async def run_scheduler(self, later: timedelta = timedelta()) -> None:
        """Move the clock, and do what is due then, in a scheduler that remembers nothing."""
        self.now += later
        owner, reader = self._databases
        await Scheduler(owner, reader, self.spool, lambda: self.now.timestamp()).run_once()

    async def get_action(self, action_id: str) -> Json:
        """Return the action as the API serves it."""
        found = await self._api.get_collection(f"/action?actionid={action_id}")
        return found["items"][0]["data"][0]["value"]

    def list_files(self) -> dict[str, str]:
        """Return the folder of each action that has a file, by id."""
        files = (self.spool / "action").glob("*/*.json")
        return {path.stem: path.parent.name for path in files}

    def stop(self) -> None:
        for database in self._databases:
            database.stop()
