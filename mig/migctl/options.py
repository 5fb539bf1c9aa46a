"""Options that several commands have: the service, the filters of a search, and the output."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias, cast

import click

from mig.client.filters import Filter, Filters, Noun, Patterns, Time, describe_filters
from mig.migctl.configuration import (
    API_KEY_VARIABLE,
    URL_VARIABLE,
    check_private,
    load_configuration,
)
from mig.migctl.exits import UsageError

Command: TypeAlias = Callable[..., None]

FORMATS: Final = ("table", "json", "ndjson", "csv")
_SUFFIXES: Final[Mapping[str, str]] = {
    ".txt": "table",
    ".json": "json",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".csv": "csv",
}
_MAX_KEY_FILE_CHARACTERS: Final = 4_096


def parse_id_option(
    _context: click.Context, _option: click.Parameter, text: str | None
) -> int | None:
    """Return the id in the text of an option or an argument."""
    from mig.errors import InvalidInputError
    from mig.values import parse_id

    try:
        return None if text is None else parse_id("it", text)
    except InvalidInputError as reason:
        raise click.BadParameter(f"{reason}.") from None


def id_argument(command: Command) -> Command:
    """Give a command the argument ID; it gets ``record_id``."""
    return click.argument("record_id", metavar="ID", callback=parse_id_option)(command)


def _read_key_file(
    _context: click.Context, _option: click.Parameter, path: Path | None
) -> str | None:
    if path is None:
        return None
    check_private(path)
    with path.open() as file:
        key = file.read(_MAX_KEY_FILE_CHARACTERS).strip()
    if not key:
        raise click.BadParameter(f"{path} is empty.")
    return key


GPG_OPTIONS: Final = (
    click.option(
        "-k",
        "--key",
        "keyid",
        metavar="KEY",
        help="The key that signs: a fingerprint, a key id, or a user id that fits one key.",
    ),
    click.option(
        "--gpg-home",
        "home",
        type=click.Path(exists=True, file_okay=False),
        help="The home folder of gpg, if it is not your own.",
    ),
)
SERVICE_OPTIONS: Final = (
    click.option("--url", help=f"The base URL of the API; also in {URL_VARIABLE}."),
    click.option(
        "--api-key-file",
        "apikey",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        callback=_read_key_file,
        help=f"A file with an API key, which only you can read; the key may be in"
        f" {API_KEY_VARIABLE}.",
    ),
    click.option(
        "--skip-verify-cert",
        "skipverifycert",
        is_flag=True,
        default=None,
        help="Accept any certificate: others may read and change everything.",
    ),
)


def service_options(command: Command) -> Command:
    """Give a command the options of the service; it gets the configuration as first argument."""
    return _configure(command, (*SERVICE_OPTIONS, *GPG_OPTIONS))


def gpg_options(command: Command) -> Command:
    """Give a command the options of gpg; it gets the configuration as first argument."""
    return _configure(command, GPG_OPTIONS)


def _configure(command: Command, options: Sequence[Callable[[Command], Command]]) -> Command:
    @wraps(command)
    def configure(**values: Any) -> None:
        names = ("url", "apikey", "skipverifycert", "home", "keyid")
        chosen = {name: values.pop(name) for name in names if name in values}
        command(load_configuration(chosen), **values)

    return _add_options(configure, options)


def _add_options(command: Command, options: Sequence[Callable[[Command], Command]]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def filter_options(noun: Noun, *, is_report: bool = False) -> Callable[[Command], Command]:
    """Return the decorator that gives a command the filters of a search, as ``filters``."""
    chosen = {
        name: (type_, filter_)
        for name, (type_, filter_) in describe_filters().items()
        if noun in filter_.nouns and (is_report or not filter_.is_of_reports)
    }

    def decorate(command: Command) -> Command:
        @wraps(command)
        def collect(*arguments: Any, **values: Any) -> None:
            filters = {name: value for name in chosen if (value := values.pop(name)) is not None}
            command(*arguments, filters=cast(Filters, filters), **values)

        options = [_make_option(name, *described) for name, described in chosen.items()]
        return _add_options(collect, options)

    return decorate


def _make_option(name: str, type_: object, filter_: Filter) -> Callable[[Command], Command]:
    explanation = f"{filter_.meaning[0].upper()}{filter_.meaning[1:]}."
    if type_ is bool:
        return click.option(f"--{name}/--no-{name}", name, default=None, help=explanation)
    kind = _KINDS[type_]
    return click.option(
        f"--{name}",
        name,
        multiple=kind.is_repeatable,
        metavar=kind.metavar if name != "limit" else "NUMBER",
        callback=kind.callback,
        help=explanation,
    )


def _parse_members(
    _context: click.Context, _option: click.Parameter, texts: Sequence[str]
) -> Mapping[str, str] | None:
    members = {}
    for text in texts:
        name, sign, pattern = text.partition("=")
        if not (name and sign and pattern):
            raise click.BadParameter(f"it must be NAME=PATTERN, not {text!r}.")
        members[name] = pattern
    return members or None


def _collect_patterns(
    _context: click.Context, _option: click.Parameter, texts: Sequence[str]
) -> list[str] | None:
    return list(texts) or None


class _Kind(NamedTuple):
    """How the options of one type of filter are parsed."""

    metavar: str
    callback: Callable[..., object] | None = None
    is_repeatable: bool = False


_KINDS: Final[Mapping[object, _Kind]] = {
    int: _Kind("ID", parse_id_option),
    str: _Kind("TEXT"),
    Time: _Kind("TIME"),
    Patterns: _Kind("PATTERN", _collect_patterns, is_repeatable=True),
    Mapping[str, str]: _Kind("NAME=PATTERN", _parse_members, is_repeatable=True),
}


class OutputFile(click.Path):
    """A file that can be written, in a folder that is there: checked before anything is done.

    :param allow_dash: whether ``-`` is standard output.
    """

    def __init__(self, *, allow_dash: bool = False) -> None:
        super().__init__(dir_okay=False, writable=True, allow_dash=allow_dash, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path, or ``None`` for standard output.

        :raises UsageError: when no file can be made there.
        """
        if value == "-":
            if self.allow_dash:
                return None
            raise UsageError("- is not the name of a file", "write ./- for a file of this name")
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        is_replaced = path.is_file() or not path.exists()  # not a pipe or a device
        folder = path.resolve().parent
        if is_replaced and not os.access(folder, os.W_OK):
            reason = os.strerror(errno.EACCES if folder.is_dir() else errno.ENOENT)
            raise UsageError(f"{path} cannot be written: {reason}")
        return path


def output_options(command: Command) -> Command:
    """Give a command the options of its output; it gets ``format_name`` and ``path``."""

    @wraps(command)
    def choose(*arguments: Any, format_name: str | None, path: Path | None, **values: Any) -> None:
        command(*arguments, format_name=_choose_format(format_name, path), path=path, **values)

    return _add_options(
        choose,
        (
            click.option(
                "--format",
                "format_name",
                type=click.Choice(FORMATS),
                help="Default: by the suffix of --output, else table.",
            ),
            click.option(
                "-o",
                "--output",
                "path",
                type=OutputFile(allow_dash=True),
                help="The file to write; it is there when it is complete. Default: stdout.",
            ),
        ),
    )


def _choose_format(name: str | None, path: Path | None) -> str:
    if name:
        return name
    if path is None or not path.suffix:
        return "table"
    if path.suffix.lower() not in _SUFFIXES:
        known = ", ".join(_SUFFIXES)
        raise UsageError(f"{path.suffix} is not a format: {known}", "choose one with --format")
    return _SUFFIXES[path.suffix.lower()]
