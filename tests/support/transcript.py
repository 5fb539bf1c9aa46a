"""A page whose blocks are run in one shell, as its reader does."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Self

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE_NAME = re.compile(r"^(?:#!.*\n)?# (\S+)\n")
_END = "the command has ended with "


class Step(NamedTuple):
    """A command, and what it prints; ``…`` in it stands for any text, alone for any lines."""

    command: str
    expected: str


def list_files(page: str) -> Iterator[tuple[str, str]]:
    """Return name and text of the files of a page: blocks that begin with a comment, the name."""
    for language, text in _BLOCK.findall(page):
        if language in ("python", "bash"):
            match = _FILE_NAME.match(text)
            assert match, f"this block has no name: {text}"
            yield match[1], text


def list_steps(page: str) -> Iterator[Step]:
    """Return the commands of a page: what follows ``$`` and, on the next lines, ``>``."""
    for language, text in _BLOCK.findall(page):
        if language == "console":
            for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
                command, *lines = part.splitlines()
                while lines and lines[0].startswith("> "):
                    command += "\n" + lines.pop(0)[2:]
                yield Step(command, "\n".join(lines))


def make_pattern(expected: str) -> re.Pattern[str]:
    """Return what an output must match; spaces at the ends of lines do not count."""
    lines = [
        r"(?:.*\n)*" if line == "…" else ".*".join(map(re.escape, line.split("…"))) + r"\n"
        for line in expected.splitlines()
    ]
    return re.compile("".join(lines))


class Shell:
    """A bash that runs one command after another; ``environment`` is all that it has."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            ["bash", "--norc"],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def run(self, command: str) -> tuple[str, int]:
        """Return what a command prints, without spaces at the ends of lines, and its status."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{{ {command}\n}} </dev/null\nprintf '\\n{_END}%d\\n' $?\n")
        self._process.stdin.flush()
        lines = []
        for line in self._process.stdout:
            if line.startswith(_END):
                break
            lines.append(line.rstrip())
        else:
            raise AssertionError(f"the shell has ended: {lines}")
        text = "\n".join(lines[:-1] if lines[-1] == "" else lines)
        return f"{text}\n" if text else "", int(line[len(_END) :])
