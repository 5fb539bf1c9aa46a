"""The floor of a small request: a bare Klein route with one bare txpostgres SELECT.

``python -m benchmarks.baseline_server DSN FD`` serves on an inherited socket, with eight
connections to PostgreSQL. A route answers the rows that the service needs for its document, as text
and without any check.
"""

from __future__ import annotations

import socket
import sys
from typing import Any, Final

from klein import Klein
from twisted.python.failure import Failure
from twisted.web.server import Site
from txpostgres import txpostgres

from mig.model.action import ACTION
from mig.model.agent import AGENT
from mig.model.command import COMMAND
from mig.model.investigator import INVESTIGATOR
from mig.reactor import get_reactor

CONNECTIONS: Final = 8

_LINKS: Final = """
    (
        select json_agg(json_build_array(l.id, l.name))::text
        from (
            select c.id::text, g.name
            from commands c
            left join agents g on g.id = c.agentid
            where c.actionid = a.id
            order by c.starttime, c.id
            limit 1001
        ) l
    )
"""
_STATUSES: Final = """
    (
        select json_agg(json_build_array(s.status, s.count))::text
        from (
            select status, count(*) from commands where actionid = a.id group by status
        ) s
    )
"""
_COMMANDS: Final = f"""
    select {COMMAND.sql}, {ACTION.sql}, {AGENT.sql}
    from commands c
    left join actions a on a.id = c.actionid
    left join agents g on g.id = c.agentid
"""
BY_ID: Final = {
    "/action": (
        b"actionid",
        f"select {ACTION.sql}, {_STATUSES}, {_LINKS} from actions a where a.id = %s",
    ),
    "/agent": (b"agentid", f"select {AGENT.sql} from agents g where g.id = %s"),
    "/command": (b"commandid", f"{_COMMANDS} where c.id = %s"),
    "/investigator": (
        b"investigatorid",
        f"select {INVESTIGATOR.sql} from investigators i where i.id = %s",
    ),
}
"""For each path the parameter, and the SELECT of one id."""

FIXED: Final = {
    "/dashboard": "select version, status, count(*) from agents group by version, status",
    "/search/command": (
        _COMMANDS.replace(
            "from commands c", "from (select * from commands order by starttime desc limit 100) c"
        )
    ),
    "/search/agent": (
        f"select {AGENT.sql} from agents g order by g.starttime desc, g.id desc limit 100"
    ),
}


def make_application(pool: Any) -> Klein:
    """Return the application with all routes."""
    app = Klein()

    def add_route(path: str, parameter: bytes | None, sql: str) -> None:
        @app.route(path, endpoint=path)  # Klein's default is the function's name
        async def answer_rows(request: Any) -> bytes:
            values = (request.args[parameter][0].decode(),) if parameter else None
            return _format_rows(await pool.runQuery(sql, values))

    @app.route("/heartbeat")
    def answer_heartbeat(_request: Any) -> bytes:
        return b"gatorz say hi"

    for path, (parameter, sql) in BY_ID.items():
        add_route(path, parameter, sql)
    for path, sql in FIXED.items():
        add_route(path, None, sql)
    return app


def _format_rows(rows: list[tuple[Any, ...]]) -> bytes:
    return b"\n".join("\t".join(map(str, row)).encode() for row in rows)


def main() -> None:
    """Serve until the process is stopped."""
    reactor = get_reactor()
    dsn, number = sys.argv[1], int(sys.argv[2])
    listening = socket.socket(fileno=number)
    listening.setblocking(False)
    pool = txpostgres.ConnectionPool(None, dsn, min=CONNECTIONS)

    def start_listening(_: Any) -> None:
        site: Any = Site(make_application(pool).resource())
        site.log = lambda _request: None  # its access log would cost a tenth of the rate
        reactor.adoptStreamPort(number, listening.family, site)
        print(f"ready at http://127.0.0.1:{listening.getsockname()[1]}", flush=True)

    def give_up(failure: Failure) -> None:
        failure.printTraceback()
        reactor.stop()

    pool.start().addCallbacks(start_listening, give_up)
    reactor.run()


if __name__ == "__main__":
    main()
