"""Where the temporary files of the tests and of the programs that they start are."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

MEMORY = Path("/dev/shm")
MIN_FREE_BYTES = 4 << 30


def use_memory() -> None:
    """Keep temporary files in memory, unless the environment says where, or it has no room.

    Many tests copy a database of some 500 files, which takes four times as long on a disk.
    """
    if "TMPDIR" not in os.environ and _is_usable(MEMORY):
        os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)


def _is_usable(folder: Path) -> bool:
    """Return whether files can be made and executed in a folder, and there is room for them."""
    if not os.access(folder, os.W_OK | os.X_OK):
        return False
    is_executable = not os.statvfs(folder).f_flag & os.ST_NOEXEC
    return is_executable and shutil.disk_usage(folder).free >= MIN_FREE_BYTES
