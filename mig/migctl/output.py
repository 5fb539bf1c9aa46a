"""Where records are written: a format, on standard output or in a file."""

from __future__ import annotations

import csv
import io
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

import msgspec

from mig.migctl.columns import COLUMNS, Column
from mig.model.fields import list_fields
from mig.values import FORMULA_STARTS

if TYPE_CHECKING:
    from mig.client.records import Record

_encoder = msgspec.json.Encoder()


class Writer(Protocol):
    """Something that writes records in one format."""

    def write(self, record: Record) -> None:
        """Write a record."""
        ...

    def close(self) -> None:
        """Write what follows the last record."""
        ...


@contextmanager
def open_writer(noun: str, format_name: str, path: Path | None) -> Iterator[Writer]:
    """Return what writes records of a kind to standard output, or to the file ``path``.

    The file appears when it is complete; after an error, nothing has changed.

    :param noun: a key of :data:`mig.migctl.columns.COLUMNS`.
    """
    if path is None:
        writer = _make_writer(noun, format_name, sys.stdout.buffer)
        yield writer
        writer.close()
        sys.stdout.flush()
        return
    with open_complete(path) as file:
        writer = _make_writer(noun, format_name, file)
        yield writer
        writer.close()


@contextmanager
def open_table(columns: Sequence[Column]) -> Iterator[Writer]:
    """Return what writes records to standard output as a table."""
    writer = _make_table_writer(columns, sys.stdout.buffer)
    sys.stdout.flush()  # what was printed before
    yield writer
    writer.close()
    sys.stdout.flush()


@contextmanager
def open_complete(path: Path) -> Iterator[IO[bytes]]:
    """Return a file that gets its name when it is complete; after an error, it is deleted."""
    if path.exists() and not path.is_file():  # a pipe or a device
        with path.open("wb") as file:
            yield file
        return
    path = path.resolve()  # the file that a link leads to
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as new:
        try:
            yield cast(IO[bytes], new)
            new.flush()
            Path(new.name).chmod(_find_mode(path))
            Path(new.name).rename(path)
        except BaseException:
            Path(new.name).unlink(missing_ok=True)
            raise


def _find_mode(path: Path) -> int:
    """Return the mode of the file ``path``, or else that of a new one."""
    if path.exists():
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _make_writer(noun: str, format_name: str, stream: IO[bytes]) -> Writer:
    if format_name == "json":
        return JsonWriter(stream)
    if format_name == "ndjson":
        return NdjsonWriter(stream)
    if format_name == "csv":
        return CsvWriter(stream, noun)
    return _make_table_writer(COLUMNS[noun], stream)


def _make_table_writer(columns: Sequence[Column], stream: IO[bytes]) -> Writer:
    if stream.isatty():
        from mig.migctl.table import TableWriter

        return TableWriter(columns)
    return PlainWriter(stream, columns)


class NdjsonWriter:
    """A record of JSON on each line."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def write(self, record: Record) -> None:
        """Write a line."""
        self._stream.write(_encoder.encode(record) + b"\n")

    def close(self) -> None:
        """Write nothing: each line is whole."""


class JsonWriter:
    """An array of all records, each on a line."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._before = b"[\n"

    def write(self, record: Record) -> None:
        """Write a member of the array."""
        self._stream.write(self._before + _encoder.encode(record))
        self._before = b",\n"

    def close(self) -> None:
        """End the array."""
        self._stream.write(b"[]\n" if self._before == b"[\n" else b"\n]\n")


class CsvWriter:
    """The same table as the service's own CSV: a column for each field.

    A text that a spreadsheet would run as a formula begins with an apostrophe.
    """

    def __init__(self, stream: IO[bytes], noun: str) -> None:
        names = list_csv_columns(noun)
        self._stream = stream
        self._read = attrgetter(*names)
        self._buffer = io.StringIO()
        self._csv = csv.writer(self._buffer)
        self._write_row(names)

    def write(self, record: Record) -> None:
        """Write a row."""
        self._write_row([_format_cell(value) for value in self._read(record)])

    def close(self) -> None:
        """Write nothing: each row is whole."""

    def _write_row(self, cells: Sequence[str]) -> None:
        self._csv.writerow(cells)
        self._stream.write(self._buffer.getvalue().encode())
        self._buffer.seek(0)
        self._buffer.truncate()


def list_csv_columns(noun: str) -> list[str]:
    """Return the columns of records of a kind, named as in the service's own CSV."""
    from mig.model.action import Action
    from mig.model.agent import Agent
    from mig.model.command import Command
    from mig.model.compliance import ComplianceItem
    from mig.model.investigator import Investigator

    models = {each.noun: each for each in (Action, Agent, Command, ComplianceItem, Investigator)}
    return [field.name for field in list_fields(models.get(noun, Command))]


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
