"""How a process imports what it needs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def pause_collector() -> Iterator[None]:
    """Import modules in the block without collections of garbage.

    Each collection would visit all that was imported before, and find nothing. What is imported
    lives as long as the process, so later collections and the end of the process skip it, too.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()
