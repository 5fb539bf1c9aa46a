"""Where records are written: a format, on standard output or in a file."""

from __future__ import annotations

import csv
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeAlias

import msgspec

from mig.migctl.columns import COLUMNS, Column
from mig.migctl.exits import UsageError
from mig.migctl.terminal import escape_json
from mig.model.fields import list_fields
from mig.values import FORMULA_STARTS, escape_unprintable

if TYPE_CHECKING:
    from mig.client.records import Record

CsvFields: TypeAlias = Mapping[str, Callable[[Any], object]]
"""By name, a function that reads the value of a column from a record."""

Encode: TypeAlias = Callable[[Any], bytes]
"""A function that returns the JSON of a record."""

_encode = msgspec.json.Encoder().encode


class Writer(Protocol):
    """Something that writes records in one format."""

    def write(self, record: Record) -> None:
        """Write a record."""
        ...

    def close(self) -> None:
        """Write what follows the last record."""
        ...


def open_writer(noun: str, format_name: str, path: Path | None) -> AbstractContextManager[Writer]:
    """Return what writes records of a kind, as :func:`open_output` does.

    :param noun: a key of :data:`mig.migctl.columns.COLUMNS`.
    """
    return open_output(COLUMNS[noun], lambda: list_csv_fields(noun), format_name, path)


def open_table(columns: Sequence[Column]) -> AbstractContextManager[Writer]:
    """Return what writes records to standard output as a table."""
    return open_output(columns, dict, "table", None)


@contextmanager
def open_output(
    columns: Sequence[Column],
    make_csv_fields: Callable[[], CsvFields],
    format_name: str,
    path: Path | None,
) -> Iterator[Writer]:
    """Return what writes records to standard output, or to the file ``path``.

    The file appears when it is complete; after an error, nothing has changed.

    :param columns: those of a table.
    :param make_csv_fields: returns the columns of CSV.
    """

    def make_writer(stream: IO[bytes]) -> Writer:
        is_terminal = stream.isatty()
        encode = _encode_visibly if is_terminal else _encode
        if format_name == "json":
            return JsonWriter(stream, encode)
        if format_name == "ndjson":
            return NdjsonWriter(stream, encode)
        if format_name == "csv":
            escape = escape_unprintable if is_terminal else str
            return CsvWriter(stream, make_csv_fields(), escape)
        if is_terminal:
            from mig.migctl.table import TableWriter

            return TableWriter(columns)
        return PlainWriter(stream, columns)

    if path is None:
        sys.stdout.flush()  # what was printed before
        writer = make_writer(sys.stdout.buffer)
        yield writer
        writer.close()
        sys.stdout.flush()
        return
    with open_complete(path) as file:
        writer = make_writer(file)
        yield writer
        writer.close()


@contextmanager
def open_complete(path: Path) -> Iterator[IO[bytes]]:
    """Return a file that gets its name when it is complete; after an error, it is deleted.

    :raises UsageError: when no file can be made there.
    """
    if path.exists() and not path.is_file():  # a pipe or a device
        with path.open("wb") as file:
            yield file
        return
    path = path.resolve()  # the file that a link leads to
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    except OSError as reason:
        # The name of the temporary file, which the reason has, says nothing to the user.
        raise UsageError(f"{path} cannot be written: {reason.strerror}") from reason
    with os.fdopen(descriptor, "wb") as new:
        try:
            yield new
            new.flush()
            Path(name).chmod(_find_mode(path))
            Path(name).rename(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def _find_mode(path: Path) -> int:
    """Return the mode of the file ``path``, or else that of a new one."""
    if path.exists():
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _encode_visibly(record: Any) -> bytes:
    """Return the JSON of a record, without anything that controls a terminal."""
    return escape_json(_encode(record).decode()).encode()


class NdjsonWriter:
    """A record of JSON on each line."""

    def __init__(self, stream: IO[bytes], encode: Encode) -> None:
        self._stream = stream
        self._encode = encode

    def write(self, record: Record) -> None:
        """Write a line."""
        self._stream.write(self._encode(record) + b"\n")

    def close(self) -> None:
        """Write nothing: each line is whole."""


class JsonWriter:
    """An array of all records, each on a line."""

    def __init__(self, stream: IO[bytes], encode: Encode) -> None:
        self._stream = stream
        self._encode = encode
        self._before = b"[\n"

    def write(self, record: Record) -> None:
        """Write a member of the array."""
        self._stream.write(self._before + self._encode(record))
        self._before = b",\n"

    def close(self) -> None:
        """End the array."""
        self._stream.write(b"[]\n" if self._before == b"[\n" else b"\n]\n")


class CsvWriter:
    """The same table as the service's own CSV: a column for each field.

    A text that a spreadsheet would run as a formula begins with an apostrophe.

    :param escape: what a cell becomes before it is written.
    """

    def __init__(self, stream: IO[bytes], fields: CsvFields, escape: Callable[[str], str]) -> None:
        self._stream = stream
        self._escape = escape
        self._readers = list(fields.values())
        self._buffer = io.StringIO()
        self._csv = csv.writer(self._buffer)
        self._write_row(list(fields))

    def write(self, record: Record) -> None:
        """Write a row."""
        self._write_row([self._escape(_format_cell(read(record))) for read in self._readers])

    def close(self) -> None:
        """Write nothing: each row is whole."""

    def _write_row(self, cells: Sequence[str]) -> None:
        self._csv.writerow(cells)
        self._stream.write(self._buffer.getvalue().encode())
        self._buffer.seek(0)
        self._buffer.truncate()


def list_csv_fields(noun: str) -> CsvFields:
    """Return the columns of records of a kind, named as in the service's own CSV."""
    from mig.model.action import Action
    from mig.model.agent import Agent
    from mig.model.command import Command
    from mig.model.compliance import ComplianceItem
    from mig.model.investigator import Investigator

    models = {each.noun: each for each in (Action, Agent, Command, ComplianceItem, Investigator)}
    return {field.name: field.read for field in list_fields(models.get(noun, Command))}


def _format_cell(value: Any) -> str:
    if isinstance(value, str):
        return f"'{value}" if value.startswith(FORMULA_STARTS) else value
    return "" if value is None else msgspec.json.encode(value).decode()


class PlainWriter:
    """The cells of a table on a line, with tabs between them, for other programs."""

    def __init__(self, stream: IO[bytes], columns: Sequence[Column]) -> None:
        self._stream = stream
        self._columns = columns

    def write(self, record: Record) -> None:
        """Write a line."""
        cells = [column.format_cell(record) for column in self._columns]
        self._stream.write("\t".join(cells).encode() + b"\n")

    def close(self) -> None:
        """Write nothing: each line is whole."""
