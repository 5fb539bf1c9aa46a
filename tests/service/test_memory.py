"""The memory of large requests goes back to the operating system."""

from __future__ import annotations

import subprocess
import sys

from twisted.internet.task import Clock

from mig.service.memory import LARGE_BYTES, QUIET_SECONDS, MemoryTrimmer
from tests.support.request_events import make_request_ended


def test_memory_is_returned_once_large_requests_have_ended() -> None:
    clock = Clock()
    trims: list[float] = []
    trimmer = MemoryTrimmer(clock, lambda: trims.append(clock.seconds()))
    trimmer(make_request_ended(sent_bytes=LARGE_BYTES, received_bytes=LARGE_BYTES))
    clock.advance(10)
    assert trims == []  # they were not large
    trimmer(make_request_ended(sent_bytes=LARGE_BYTES + 1))
    clock.advance(QUIET_SECONDS / 2)
    trimmer(make_request_ended(received_bytes=LARGE_BYTES + 1))
    clock.advance(QUIET_SECONDS / 2)
    assert trims == []
    clock.advance(QUIET_SECONDS / 2)
    assert trims == [10 + 1.5 * QUIET_SECONDS]
    trimmer(make_request_ended(sent_bytes=LARGE_BYTES + 1))
    trimmer.stop()
    assert clock.getDelayedCalls() == []


# In a process of its own, whose memory has no other holes.
PROGRAM = """
import os
from mig.service.memory import return_free_memory

def read_resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

kept = [(bytearray(100_000), bytearray(2_000)) for _ in range(500)]
small = [pair[1] for pair in kept]
kept.clear()
before = read_resident_bytes()
return_free_memory()
print(before - read_resident_bytes())
"""


def test_free_memory_between_small_values_is_returned() -> None:
    """Each value of 100,000 bytes has a small one behind it, which stays."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) > 20_000_000


# Ten pages of an answer at a time, each of which is dropped before the next ones are made.
PAGES_PROGRAM = """
import resource
from mig.service.memory import keep_free_memory

def make_pages():
    return [bytes([n]) * 600_000 for n in range(10)]

keep_free_memory()
make_pages()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    make_pages()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_the_memory_of_a_page_is_used_again_for_the_next_one() -> None:
    """Memory that the process asks for again costs a page fault for each 4 KiB."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", PAGES_PROGRAM], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 1_000
