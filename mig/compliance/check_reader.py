"""The checks in the results of commands, by typed decoders.

What a check becomes is up to the reader's ``make_check``: its bytes in a format, for example.
"""

from __future__ import annotations

from collections.abc import Callable
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
"""What :meth:`CheckReader.read` raises for results that only the readable definition handles."""


class _Operation(Generic[Check]):
    """An operation of an action; ``checks`` are those of a module without checks of its own."""

    def __init__(self, make_check: CheckMaker[Check], module: str, parameters: str) -> None:
        self.decoder = _MODULE_DECODERS.get(module, _OTHER_DECODER)
        self.checks = {
            found: make_check(module, module, parameters, found)("") for found in (False, True)
        }


class Operations(Generic[Check]):
    """The operations of an action."""

    __slots__ = ("_decode", "operations")  # read in fewer steps: docs/decisions/0052

    def __init__(self, make_check: CheckMaker[Check], stored: str | None) -> None:
        """Read the ``stored`` operations.

        :raises UnreadableError: when they cannot be read.
        """
        self.operations = [
            _Operation(make_check, module, parameters)
            for module, parameters in definition.read_modules(stored)
        ]
        decoders = {operation.decoder for operation in self.operations}
        self._decode = decoders.pop().decode_results if len(decoders) == 1 else _decode_raw_results

    def decode_results(self, stored: str) -> list[Any]:
        """Return the results of a command, each in the shape of its operation's module.

        :raises UnusualShapeError: when there are more results than operations.
        :raises msgspec.MsgspecError: when a result has another shape.
        """
        results = self._decode(stored) or []
        if len(results) > len(self.operations):
            raise UnusualShapeError
        if self._decode is _decode_raw_results:
            return [
                operation.decoder.decode_result(raw)
                for operation, raw in zip(self.operations, results, strict=False)
            ]
        return results


class CheckReader(Generic[Check]):
    """Reads the checks in the results of commands, each of which is made once."""

    def __init__(self, make_check: CheckMaker[Check], limits: Limits) -> None:
        self._make_check = make_check
        self._file_checks = FileChecks(make_check, limits)
        self._filechecker_checks = FilecheckerChecks(make_check, limits)

    def read_operations(self, stored: str | None) -> Operations[Check]:
        """Return the stored operations of an action.

        :raises UnreadableError: when they cannot be read.
        """
        return Operations(self._make_check, stored)

    def read(self, operations: Operations[Check], results: str | None) -> list[Check]:
        """Return the checks in the results of a command, in their order.

        :raises UnreadableError: when a text contains U+0000.
        :raises: one of :data:`UNUSUAL_SHAPE_ERRORS`.
        """
        checks: list[Check] = []
        if results is None:
            return checks
        decoded = operations.decode_results(results)
        for operation, result in zip(operations.operations, decoded, strict=False):
            if type(result) is FileResult:
                checks += self._file_checks.read(operation, result)
            elif type(result) is FilecheckerResult:
                checks += self._filechecker_checks.read(result)
            else:
                checks.append(operation.checks[bool(result.foundanything)])
        return checks
