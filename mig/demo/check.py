"""What can be checked before the demo is installed: ``python -m mig.demo.check --port PORT``.

It needs nothing but Python.
"""

from __future__ import annotations

import argparse
import socket
from contextlib import closing

DEFAULT_PORT = 1664
ADDRESS = "127.0.0.1"


def find_fault(port: int) -> str | None:
    """Return why the demo cannot listen on a port; ``None`` when it can."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
            probe.listen()
        except OSError as reason:
            return f"cannot listen on {ADDRESS}, port {port}: {reason.strerror}"
    return None


def _main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--port", type=int, default=DEFAULT_PORT)
    options, _ = parser.parse_known_args()
    fault = find_fault(options.port)
    if fault:
        raise SystemExit(f"{fault}; choose another one: make demo DEMO='--port {options.port + 1}'")


if __name__ == "__main__":
    _main()
