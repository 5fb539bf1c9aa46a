"""The checks in the results of commands, by typed decoders.

What a check becomes is up to the reader's ``make_check``: its bytes in a format, for example.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, Generic

import msgspec
from msgspec import Raw

from mig.compliance import definition
from mig.compliance.check_maker import Check, CheckMaker
from mig.compliance.file_checks import FileChecks, FileResult
from mig.compliance.filechecker_checks import FilecheckerChecks, FilecheckerResult
from mig.limits import Limits


# gc=False: it is part of no cycle
class _OtherResult(msgspec.Struct, gc=False):
    foundanything: bool | None = None


_DecodeResults = Callable[[str], list[Any] | None]
_decode_raw_results: _DecodeResults = msgspec.json.Decoder(list[Raw] | None).decode


class _ModuleDecoder:
    """The decoders of a module: ``decode_result`` one result, ``decode_results`` a command's."""

    def __init__(self, shape: Any) -> None:
        self.decode_result: Callable[[Raw], Any] = msgspec.json.Decoder(shape).decode
        self.decode_results: _DecodeResults = msgspec.json.Decoder(list[shape] | None).decode


_OTHER_DECODER: Final = _ModuleDecoder(_OtherResult)
_MODULE_DECODERS: Final = {
    "file": _ModuleDecoder(FileResult),
    "filechecker": _ModuleDecoder(FilecheckerResult),
}


class UnusualShapeError(Exception):
    """The results have a shape that only the readable definition handles."""


UNUSUAL_SHAPE_ERRORS: Final = (msgspec.MsgspecError, RecursionError, UnusualShapeError)
"""What :meth:`Operations.read_checks` raises for results that only the readable definition
handles."""

_ReadResult = Callable[[Any], list[Check]]


class Operations(Generic[Check]):
    """The operations of an action, which read the checks in the results of its commands."""

    __slots__ = ("_decode", "_readers")  # read in fewer steps: docs/decisions/0052

    def __init__(self, operations: list[tuple[_ModuleDecoder, _ReadResult[Check]]]) -> None:
        """Take the operations.

        :param operations: the decoder of each one's results, and what reads the checks in one.
        """
        decoders = {decoder for decoder, _ in operations}
        if len(decoders) == 1:
            self._decode = decoders.pop().decode_results
            self._readers = [read for _, read in operations]
        else:
            self._decode = _decode_raw_results
            self._readers = [
                partial(_decode_and_read, decoder.decode_result, read)
                for decoder, read in operations
            ]

    def read_checks(self, results: str | None) -> list[Check]:
        """Return the checks in the results of a command, in their order, in a new list.

        :raises UnreadableError: when a text contains U+0000.
        :raises UnusualShapeError: when there are more results than operations.
        :raises msgspec.MsgspecError: when a result has another shape.
        """
        decoded = None if results is None else self._decode(results)
        if not decoded:
            return []
        readers = self._readers
        if len(decoded) > len(readers):
            raise UnusualShapeError
        if len(decoded) == 1:  # nearly always
            return readers[0](decoded[0])
        return [
            check for read, result in zip(readers, decoded, strict=False) for check in read(result)
        ]


def _decode_and_read(
    decode: Callable[[Raw], Any], read: _ReadResult[Check], result: Raw
) -> list[Check]:
    return read(decode(result))


class CheckReader(Generic[Check]):
    """Makes readers of the checks in the results of commands, each of which is made once."""

    def __init__(self, make_check: CheckMaker[Check], limits: Limits) -> None:
        self._make_check = make_check
        self._file_checks = FileChecks(make_check, limits)
        self._filechecker_checks = FilecheckerChecks(make_check, limits)

    def read_operations(self, stored: str | None) -> Operations[Check]:
        """Return the stored operations of an action.

        :raises UnreadableError: when they cannot be read.
        """
        return Operations(
            [
                (
                    _MODULE_DECODERS.get(module, _OTHER_DECODER),
                    self._make_reader(module, parameters),
                )
                for module, parameters in definition.read_modules(stored)
            ]
        )

    def _make_reader(self, module: str, parameters: str) -> _ReadResult[Check]:
        """Return a function that reads the checks in one result of an operation."""
        if module == "file":
            return partial(self._file_checks.read, object())
        if module == "filechecker":
            return self._filechecker_checks.read
        missing, found = (
            self._make_check(module, module, parameters, complies)("") for complies in (False, True)
        )
        return lambda result: [found if result.foundanything else missing]
