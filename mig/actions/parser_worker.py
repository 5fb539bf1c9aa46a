"""The process that parses large actions, and the messages that it exchanges with the service.

It reads messages from standard input and answers on standard output until its input ends, which it
also does when the service is killed. It gets no secret and opens nothing.

1. an order and a body: it answers with the signatures of the action, or with a refusal
2. ``CONTINUE``: it answers with the submission, or with a refusal; ``DROP``: it answers nothing
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import Any, BinaryIO, Final

import msgspec

from mig.actions.submission import Submission, parse_signatures, parse_submission
from mig.errors import InvalidInputError
from mig.hypermedia import templates
from mig.openpgp.packet import Signature
from mig.values import count_values, parse_json
from mig.web.forms import ContentType, parse_form

NICENESS: Final = 10
"""The service and PostgreSQL run first: a heartbeat must not wait for somebody's action."""

LENGTH_BYTES: Final = 4
CONTINUE: Final = b"\x01"
DROP: Final = b"\x00"


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What precedes a body: its length, its media type, and the limits of an action."""

    length: int
    content_type: ContentType
    max_values: int
    max_operations_bytes: int
    max_signatures: int


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """The message of an InvalidInputError and the field that it names."""

    message: str
    where: str


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One of three answers."""

    refusal: Refusal | None = None
    signatures: tuple[Signature, ...] | None = None
    submission: Submission | None = None


decode_order: Final = msgspec.msgpack.Decoder(Order).decode
decode_answer: Final = msgspec.msgpack.Decoder(Answer).decode
encode_message: Final = msgspec.msgpack.Encoder().encode


def frame(message: bytes) -> bytes:
    """Return a message behind its length."""
    return len(message).to_bytes(LENGTH_BYTES) + message


def parse_action(content_type: ContentType, body: bytes, max_values: int) -> Any:
    """Return the value of the action in a body.

    :raises InvalidInputError: for a malformed body, and for more than ``max_values`` values.
    """
    form = parse_form(
        content_type,
        body,
        templates.ACTION,
        object_field="action",
        max_object_values=max_values,
    )
    action = form["action"]
    if isinstance(action, str):  # a form submits the action as text, a JSON body also as an object
        return parse_json(action, "action", max_values=max_values)
    # a short body cannot have as many
    if len(body) > max_values and count_values(action) > max_values:
        raise InvalidInputError(f"action holds more than {max_values} values", "action")
    return action


def _serve_order(source: BinaryIO, sink: BinaryIO, order: Order) -> None:
    try:
        value = parse_action(order.content_type, source.read(order.length), order.max_values)
        signatures = parse_signatures(value, order.max_signatures)
        _write_answer(sink, Answer(signatures=signatures))
        if _read_frame(source) != CONTINUE:
            return
        submission = parse_submission(
            value, signatures, max_operations_bytes=order.max_operations_bytes
        )
        del value
        _write_answer(sink, Answer(submission=submission))
    except InvalidInputError as error:
        refusal = Refusal(message=str(error), where=error.where)
        _write_answer(sink, Answer(refusal=refusal))


def _read_frame(source: BinaryIO) -> bytes:
    """Return the next message; empty at the end of the input."""
    return source.read(int.from_bytes(source.read(LENGTH_BYTES)))


def _write_answer(sink: BinaryIO, answer: Answer) -> None:
    sink.write(frame(encode_message(answer)))
    sink.flush()


def main() -> None:
    """Serve orders until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the service, which ends this one
    os.nice(NICENESS)
    gc.disable()  # parsed JSON has no cycles, and looking for them takes half of the time
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while message := _read_frame(source):
        _serve_order(source, sink, decode_order(message))


if __name__ == "__main__":
    main()
