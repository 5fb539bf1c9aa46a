"""``migctl``: the command line of investigators, on the client library.

What takes long to import is imported by the command that needs it: completion has 100 ms.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Final

_PACKAGES: Final = ("click", "rich", "treq")
"""Packages of the extra ``client`` without which no command works."""


def main() -> None:
    """Run the command line, and end the process with its status."""
    try:
        # imports, too, may be interrupted
        from mig.migctl.exits import ExitStatus
        from mig.startup import pause_collector

        missing = [name for name in _PACKAGES if find_spec(name) is None]
        if missing:
            packages = " and ".join(missing)
            sys.stderr.write(f"migctl needs {packages}: pip install 'mig-api[client]'\n")
            raise SystemExit(ExitStatus.USAGE)
        with pause_collector():
            from mig.migctl.program import run
        run()
    except KeyboardInterrupt:
        raise SystemExit(130) from None  # ExitStatus may not be there
