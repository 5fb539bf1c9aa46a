"""Print every kind of answer over the recorded fleet.

``python -m tests.support.answers DSN [reversed]``; with ``reversed``, every record selects its
columns in the opposite order.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import task
from twisted.internet.defer import Deferred

from mig.model import row as rows

PATHS = ("/", "/dashboard", "/action/create/", "/investigator/create/", "/investigator/update/")
SEARCHES = ("action", "agent", "command", "investigator", "command&report=complianceitems")


def reverse_columns() -> None:
    """Let every record that is declared from here on select its columns in the opposite order."""
    in_order: Callable[[Any], dict[str, str]] = rows._read_expressions
    rows._read_expressions = lambda shape: dict(reversed(in_order(shape).items()))


async def collect_answers(dsn: str) -> list[str]:
    """Return the bodies of all answers, without the server's address and what is random."""
    from tests.support import fleet  # these import the records
    from tests.support.api import Api

    found = []
    with tempfile.TemporaryDirectory() as folder:
        api = Api(dsn, Path(folder) / "spool")
        ids = {table: [row["id"] for row in fleet.FLEET[table]] for table in fleet.TABLES}
        single = [f"/{table[:-1]}?{table[:-1]}id={id_}" for table in ids for id_ in ids[table]]
        searches = [f"/search?type={search}&{fleet.ANY_TIME}" for search in SEARCHES]
        for path in (*PATHS, *single, *searches):
            found.append((await api.get(path)).body.decode())
        action = (fleet.VECTORS / "actions" / "unix-plain.json").read_text()
        accepted = await api.request("POST", "/action/create/", data={"action": action})
        [location] = accepted.headers.getRawHeaders("location", [])
        action_id = location.rpartition("=")[2]
        found.append(accepted.body.decode().replace(action_id, "ID"))
        await api.stop()
    return [re.sub(r"localhost:\d+", "localhost", body) for body in found]


def main() -> None:
    """Print the answers, one after the other."""
    if "reversed" in sys.argv:
        reverse_columns()

    async def run() -> None:
        for body in await collect_answers(sys.argv[1]):
            print(body)

    task.react(lambda _: Deferred.fromCoroutine(run()))


if __name__ == "__main__":
    main()
