"""The databases of existing schedulers as they were set up, and rows of those schedulers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.support import fleet
from tests.support.json_types import Json, JsonObject
from tests.support.postgres import TestDatabase

_SHARED = """
create table commands (
    id numeric primary key, actionid numeric references actions (id),
    agentid numeric references agents (id), status varchar(255) not null, results json,
    starttime timestamptz not null, finishtime timestamptz
);
create table signatures (
    actionid numeric references actions (id), investigatorid numeric references investigators (id),
    pgpsignature varchar(4096) not null
);
create unique index signatures_actionid_investigatorid_idx
    on signatures (actionid, investigatorid);
create table modules (id numeric primary key, name varchar(256) not null);
create table agtmodreq (
    moduleid numeric references modules (id), agentid numeric references agents (id),
    minimumweight integer not null, unique (moduleid, agentid)
);
create table invagtmodperm (
    investigatorid numeric references investigators (id), agentid numeric references agents (id),
    moduleid numeric references modules (id), weight integer not null,
    unique (investigatorid, agentid, moduleid)
);
"""

_2014 = (
    """
create table actions (
    id numeric primary key, name varchar(2048) not null, target varchar(2048) not null,
    description json, threat json, operations json, validfrom timestamptz not null,
    expireafter timestamptz not null, starttime timestamptz, finishtime timestamptz,
    lastupdatetime timestamptz, status varchar(256), pgpsignatures json, syntaxversion int
);
create table agents (
    id numeric primary key, name varchar(2048) not null, queueloc varchar(2048) not null,
    os varchar(2048) not null, version varchar(2048) not null, pid int not null,
    starttime timestamptz not null, destructiontime timestamptz,
    heartbeattime timestamptz not null, status varchar(255), environment json, tags json
);
create table investigators (
    id numeric primary key, name varchar(1024) not null,
    pgpfingerprint varchar(128), publickey bytea, privatekey bytea, status varchar(255) not null,
    createdat timestamptz not null, lastmodified timestamptz not null
);
create unique index investigators_pgpfingerprint_idx on investigators (pgpfingerprint);
"""
    + _SHARED
)

_2017 = (
    """
create table actions (
    id numeric primary key, name varchar(2048) not null, target varchar(2048) not null,
    description json, threat json, operations json, validfrom timestamptz not null,
    expireafter timestamptz not null, starttime timestamptz, finishtime timestamptz,
    lastupdatetime timestamptz, status varchar(256), pgpsignatures varchar(4096) not null,
    syntaxversion int
);
create table agents (
    id numeric primary key, name varchar(2048) not null, queueloc varchar(2048) not null,
    mode varchar(2048) not null, version varchar(2048) not null, pid int not null,
    starttime timestamptz not null, destructiontime timestamptz,
    heartbeattime timestamptz not null, refreshtime timestamptz not null, status varchar(255),
    environment json, tags json, loadername varchar(2048)
);
create sequence investigators_id_seq start 1;
create table investigators (
    id numeric primary key default nextval('investigators_id_seq'), name varchar(1024) not null,
    pgpfingerprint varchar(128) unique, publickey bytea, privatekey bytea,
    status varchar(255) not null, createdat timestamptz not null,
    lastmodified timestamptz not null, permissions bigint not null default 0, apikey bytea,
    apisalt bytea
);
"""
    + _SHARED
    + """
create table agents_stats (timestamp timestamptz not null, online_agents numeric);
create sequence manifests_id_seq start 1;
create table manifests (
    id numeric primary key default nextval('manifests_id_seq'), name varchar(256) not null,
    content text not null
);
create table manifestsig (
    manifestid numeric references manifests (id),
    investigatorid numeric references investigators (id), pgpsignature varchar(4096) not null,
    unique (manifestid, investigatorid)
);
create sequence loaders_id_seq start 1;
create table loaders (
    id numeric primary key default nextval('loaders_id_seq'), loadername varchar(256) not null,
    loaderkey bytea not null, env json, tags json, expectenv varchar(2048), queueloc varchar(2048)
);
"""
)

_TABLES_2014 = (
    "actions, agents, agtmodreq, commands, invagtmodperm, investigators, modules, signatures"
)
_PRIVILEGES_2014 = f"""
grant select on {_TABLES_2014} to migscheduler, migapi;
grant insert, update on actions, commands, agents, signatures to migscheduler;
grant insert on actions, signatures to migapi;
"""
_PRIVILEGES_2017 = f"""
grant select on {_TABLES_2014}, agents_stats, manifests, manifestsig, loaders to migscheduler;
grant insert, update on actions, commands, agents, agents_stats, signatures to migscheduler;
grant insert on investigators to migscheduler;
grant usage on sequence investigators_id_seq to migscheduler;
grant select on actions, agents, agents_stats, agtmodreq, commands, invagtmodperm, loaders,
    manifests, manifestsig, modules, signatures to migapi;
grant insert on agents, actions, signatures, manifests, manifestsig, loaders to migapi;
grant delete on manifestsig to migapi;
grant
    select (id, name, pgpfingerprint, publickey, status, createdat, lastmodified, permissions,
        apikey, apisalt),
    insert (name, pgpfingerprint, publickey, status, createdat, lastmodified, permissions),
    update (permissions, status, lastmodified, apikey, apisalt)
    on investigators to migapi;
grant usage on sequence investigators_id_seq, manifests_id_seq, loaders_id_seq to migapi;
grant select on actions, agents, agtmodreq, commands, invagtmodperm, modules, signatures
    to migreadonly;
grant select (id, name, pgpfingerprint, publickey, status, createdat, lastmodified)
    on investigators to migreadonly;
grant select (id, env, tags, expectenv, loadername, queueloc) on loaders to migreadonly;
"""

_NOT_YET = {
    "starttime": "0009-01-11T11:11:11.000000011Z",
    "finishtime": "9998-01-11T11:11:11.000000011Z",
    "lastupdatetime": "0009-01-11T11:11:11.000000011Z",
}


@dataclass(frozen=True)
class Generation:
    """The schema of a generation's database, and the rows that its scheduler writes.

    ``tables_of_owner`` are those that MIG's scripts give to migadmin, and ``database_owner`` owns
    the database. Everything else belongs to postgres, who runs the scripts. ``privileges`` is what
    the scripts grant to the other roles.
    """

    sql: str
    database_owner: str
    tables_of_owner: Sequence[str]
    privileges: str
    agent_columns: Mapping[str, Json]
    action_columns: Mapping[str, Json]

    def make_agent(self, agent_id: int) -> JsonObject:
        return {**fleet.make_agent(agent_id), **self.agent_columns}

    def make_action(self, action_id: int) -> JsonObject:
        return {**fleet.make_action(action_id), **self.action_columns}

    def set_up_as_documented(self, database: TestDatabase) -> None:
        """Make the schema in a database of ``database_owner``, as MIG's scripts do as postgres."""
        database.execute(self.sql)
        for table in self.tables_of_owner:
            database.execute(f"alter table {table} owner to migadmin")
        database.execute(self.privileges)

    def insert_rows(self, dsn: str) -> None:
        """Insert three investigators, two actions, two agents and four commands."""
        statuses = ("active", "active", "disabled")
        fleet.insert_rows(
            dsn,
            "investigators",
            (
                {
                    "id": number,
                    "name": f"investigator {number}",
                    "pgpfingerprint": f"{number:040X}",
                    "privatekey": b"secret",
                    "status": status,
                    "createdat": "2026-01-01T00:00:00Z",
                    "lastmodified": "2026-01-01T00:00:00Z",
                }
                for number, status in enumerate(statuses, 1)
            ),
        )
        fleet.insert_rows(dsn, "agents", map(self.make_agent, (1, 2)))
        fleet.insert_rows(dsn, "actions", map(self.make_action, (1, 2)))
        commands = [
            fleet.make_command(number, 1 + number % 2, 1 + number // 3) for number in range(1, 5)
        ]
        fleet.insert_rows(dsn, "commands", commands)


GENERATIONS = {
    "2014": Generation(
        _2014,
        "migadmin",
        _TABLES_2014.split(", "),
        _PRIVILEGES_2014,
        {"os": "linux"},
        {"status": "preparing", **_NOT_YET},
    ),
    "2017": Generation(
        _2017,
        "postgres",
        [*_TABLES_2014.split(", "), "manifests", "loaders"],
        _PRIVILEGES_2017,
        {"mode": "daemon", "refreshtime": "2026-01-01T00:00:00Z", "environment": {"os": "linux"}},
        {"status": "pending", **_NOT_YET},
    ),
}


def set_up_2014(database: TestDatabase) -> TestDatabase:
    database.execute(GENERATIONS["2014"].sql)
    GENERATIONS["2014"].insert_rows(database.dsn)
    return database
