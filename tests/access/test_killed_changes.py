"""A daemon that is killed while it changes an investigator or an API key."""

from __future__ import annotations

import itertools
import sys
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode

from psycopg2.extensions import make_dsn

from mig.database.schema.declaration import API_ROLE
from mig.model.permissions import ALL_PERMISSIONS
from tests.support import faulty_daemon
from tests.support.callers import add_api_key, add_investigator, with_key
from tests.support.daemon import Daemon
from tests.support.faulty_daemon import CHANGING
from tests.support.keys import Keys
from tests.support.postgres import TestDatabase
from tests.support.properties import REPETITIONS

POINTS = 9
"""At least as many as any change passes."""
STRIDE = 17 if REPETITIONS == 1 else 1
"""Of the pairs of a change and a point, only a few are tried at first: each starts a daemon."""

TABLES = ("investigators", "apikeys", "signatures")


def read_state(database: TestDatabase) -> list[tuple[object, ...]]:
    """Return everything that the changes change."""
    return [
        row
        for table in TABLES
        for row in database.execute(f"select to_jsonb(t)::text from {table} t order by 1")
    ]


def count_audit(database: TestDatabase) -> int:
    [(count,)] = database.execute("select count(*) from audit")
    return int(count)


def post(url: str, fields: Mapping[str, str], headers: Mapping[str, str]) -> int | None:
    """Return the status of the answer; ``None`` when the connection broke."""
    request = urllib.request.Request(url, urlencode(fields).encode(), dict(headers))
    try:
        return int(urllib.request.urlopen(request, timeout=60).status)
    except HTTPError as answer:
        return answer.code
    except (OSError, HTTPException):
        return None


def test_a_killed_daemon_leaves_no_change_without_its_row(
    database: TestDatabase, keys: Keys, tmp_path: Path
) -> None:
    """It is killed at each step of each change; both are there after it, or neither."""
    admin = add_investigator(database, "admin", permissions=ALL_PERMISSIONS)
    headers = with_key(add_api_key(database, admin))
    changes = [
        ("investigator/create/", {"name": "new", "publickey": keys.bob.armored}),
        ("investigator/update/", {"status": "disabled"}),
        ("investigator/update/", {"permissions": '{"search": false}'}),
        ("investigator/update/", {"apikey": "active"}),
        ("investigator/update/", {"apikey": "disabled"}),
        ("apikey/create/", {"name": "new"}),
        ("apikey/revoke/", {}),
    ]
    pairs = list(itertools.product(changes, range(1, POINTS + 1)))[1::STRIDE]
    outcomes = set()
    for number, ((path, fields), point) in enumerate(pairs):
        database.execute("delete from investigators where name = 'new'")
        other = str(add_investigator(database, f"other{number}"))
        add_api_key(database, int(other))
        [(key_id,)] = database.execute("select max(id) from apikeys")
        targets = {
            "investigator/update/": {"id": other},
            "apikey/create/": {"investigatorid": other},
            "apikey/revoke/": {"id": str(key_id)},
        }
        folder = tmp_path / str(number)
        folder.mkdir()
        daemon = Daemon(
            *("--database", make_dsn(database.dsn, user=API_ROLE), "--authentication", "on"),
            *("--listen", "tcp:0"),
            cwd=folder,
            program=[
                *(sys.executable, "-P", faulty_daemon.__file__),
                *("--kill-at", f"{CHANGING}:{point}"),
            ],
        )
        try:
            before, rows = read_state(database), count_audit(database)
            status = post(f"{daemon.base}{path}", {**fields, **targets.get(path, {})}, headers)
            assert status in (None, 200, 201), daemon.output.read_text()
        finally:
            daemon.process.kill()
            daemon.process.wait()
        is_changed = read_state(database) != before
        assert count_audit(database) - rows == int(is_changed), (path, fields, point)
        assert is_changed or status is None
        outcomes.add((status is None, is_changed))
    assert (True, False) in outcomes  # some were killed before their commit
    assert REPETITIONS == 1 or (True, True) in outcomes  # and some after it
