"""How long the shell waits until migctl has completed a word.

``python -m benchmarks.migctl_completion`` runs the installed command as bash does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Final

LINES: Final = ("migctl ", "migctl search ", "migctl search agents --agent", "migctl run --mod")
ROUNDS: Final = 20
LIMIT_MS: Final = 100


def _time_completion(program: Path, line: str) -> float:
    """Return the milliseconds until the last word of a line is completed."""
    words = line.split(" ")
    environment = {
        **os.environ,
        "_MIGCTL_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    started = time.perf_counter()
    done = subprocess.run([program], env=environment, stdout=subprocess.PIPE, check=True)
    elapsed = time.perf_counter() - started
    if not done.stdout:
        raise SystemExit(f"nothing completes {line!r}")
    return elapsed * 1000


def main() -> None:
    """Print the times of some lines; the exit status is 1 when a median is above the limit."""
    program = Path(sys.executable).parent / "migctl"
    is_slow = False
    for line in LINES:
        times = [_time_completion(program, line) for _ in range(ROUNDS)]
        is_slow = is_slow or median(times) > LIMIT_MS
        print(f"{line!r}: median {median(times):.0f} ms, fastest {min(times):.0f} ms")
    raise SystemExit(is_slow)


if __name__ == "__main__":
    main()
