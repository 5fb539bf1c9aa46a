"""``migctl``, run in a thread of the tests and as a process of its own."""

from __future__ import annotations

import io
import os
import sys
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from typing import NamedTuple
from unittest.mock import patch

from twisted.internet.threads import deferToThread

from mig.migctl.program import call

MIGCTL = [sys.executable, "-P", "-m", "mig.migctl"]


ANSWERED = """
create function answer() returns trigger language plpgsql security definer as $$ begin
    insert into commands (id, actionid, agentid, status, results, starttime, finishtime)
        select new.id + g.id, new.id, g.id,
            case when g.name = 'web3' then 'STATUS' else 'success' end,
            '[{"foundanything": true, "elements": {"s": [{"file": "/etc/passwd"}]}}]', now(), now()
        from agents g where g.name <> 'web2';
    return null;
end $$;
create trigger answer after insert on actions for each row execute function answer();
create function complete() returns trigger language plpgsql as $$ begin
    new.status := 'completed';
    return new;
end $$;
create trigger complete before insert on actions for each row execute function complete();
"""
"""A scheduler whose agents answer at once; web2 does not match."""


class Ended(NamedTuple):
    """How a command ended: its exit status, output and error output."""

    status: int
    output: str
    errors: str


async def run_migctl(*arguments: str, stdin: str = "", **environment: str) -> Ended:
    """Run a command, as a script does, and return how it ended."""
    return await deferToThread(call_migctl, *arguments, stdin=stdin, **environment)


def call_migctl(*arguments: str, stdin: str = "", **environment: str) -> Ended:
    """Run a command in this thread, which is not the reactor's."""
    output, errors = (io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in range(2))
    with ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ, environment))
        stack.enter_context(patch("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()))))
        stack.enter_context(redirect_stdout(output))
        stack.enter_context(redirect_stderr(errors))
        status = call(list(arguments))
    return Ended(int(status), *(_read(stream) for stream in (output, errors)))


def _read(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()
