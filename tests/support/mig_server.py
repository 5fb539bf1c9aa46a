"""A PostgreSQL server with the roles of MIG, as its own scripts make them.

In the server of the other tests migadmin is the superuser. Here postgres is, and migadmin is a role
that owns tables.
"""

from __future__ import annotations

import itertools
import os
import pwd
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import pytest_twisted
from twisted.internet.defer import Deferred

from mig.demo.postgres import EmbeddedPostgres
from tests.support.daemon import wait_for
from tests.support.generations import Generation
from tests.support.postgres import FAST_SETTINGS, TestDatabase
from tests.support.reactor import reactor

SUPERUSER = "postgres"
OTHER_USER = "webapi"
"""A role that is not one of MIG's, for a daemon that does not run as migapi."""

ROLES = f"""
alter role migadmin rename to initdb;
create role migadmin login;
create role migscheduler login;
create role migreadonly nologin;
create role {OTHER_USER} login;
grant migreadonly to migapi, migscheduler;
"""
_numbers = itertools.count()


class MigServer:
    """A running server; everybody may log in as every role."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self._server = server

    def open_as(self, role: str, name: str = "postgres") -> TestDatabase:
        """Return the database ``name`` as ``role`` sees it."""
        return TestDatabase(dsn=self._server.format_dsn(role, name))

    def create_database(self, owner: str) -> str:
        """Create an empty database and return its name."""
        name = f"mig_{next(_numbers)}"
        self.open_as(SUPERUSER).execute(f"create database {name} owner {owner} template template0")
        return name

    def create_as_documented(self, generation: Generation) -> str:
        """Create a database as a generation's scripts do, with rows; return its name."""
        name = self.create_database(generation.database_owner)
        database = self.open_as(SUPERUSER, name)
        generation.set_up_as_documented(database)
        generation.insert_rows(database.dsn)
        return name


@contextmanager
def run_mig_server() -> Iterator[MigServer]:
    """Run such a server; needs pytest-twisted's greenlet."""
    folder = Path(tempfile.gettempdir()) / f"mig-api-test-roles-{os.getpid()}"
    embedded = EmbeddedPostgres(reactor, folder, FAST_SETTINGS)
    embedded.lock_folder()
    pytest_twisted.blockon(Deferred.fromCoroutine(embedded.start()))
    account = pwd.getpwuid(os.geteuid()).pw_name
    with (folder / "data" / "pg_ident.conf").open("a") as ident:
        for role in (SUPERUSER, "migscheduler", OTHER_USER):
            ident.write(f"mig {account} {role}\n")
    first = TestDatabase(dsn=embedded.format_dsn(database="postgres"))
    first.execute(f"create role {SUPERUSER} superuser login")
    first.execute("select pg_reload_conf()")
    server = MigServer(embedded)

    def make_roles() -> bool:
        try:
            server.open_as(SUPERUSER).execute(ROLES)
        except psycopg2.OperationalError:  # the server has not read its files again
            return False
        return True

    wait_for(make_roles)
    yield server
    pytest_twisted.blockon(Deferred.fromCoroutine(embedded.stop()))
    embedded.delete_folder()
