"""The schema: set up in an empty database."""

from __future__ import annotations

from importlib import resources

from mig.database.pool import Database

_IS_EMPTY = "select to_regclass('actions') is null"


async def prepare(database: Database) -> None:
    """Set up an empty database; leave any other as it is.

    :raises Unavailable: when the database cannot be reached.
    """
    if (await database.query(_IS_EMPTY))[0][0]:
        await database.query(schema(1))


def schema(number: int) -> str:
    """The SQL of one step of the schema, a transaction of its own."""
    folder = resources.files("mig.database") / "schema"
    [step] = [file for file in folder.iterdir() if file.name.startswith(f"{number:04d}_")]
    return step.read_text(encoding="utf-8")
