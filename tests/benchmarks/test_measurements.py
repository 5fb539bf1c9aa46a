"""The benchmark computes and formats its figures correctly."""

from __future__ import annotations

import os

import pytest

from benchmarks import procfs
from benchmarks.markdown import format_number, format_ratio, format_table
from benchmarks.measurements import Measurement, compute_percentile, take_medians


@pytest.mark.parametrize(
    ("share", "value"), [(0, 1), (1, 1), (50, 50), (50.5, 51), (95, 95), (99, 99), (100, 100)]
)
def test_a_percentile_is_the_value_that_this_share_does_not_exceed(
    share: float, value: int
) -> None:
    assert compute_percentile(range(1, 101), share) == value


def test_every_percentile_of_one_value_is_that_value() -> None:
    assert [compute_percentile([7.0], share) for share in (0, 50, 99, 100)] == [7.0] * 4
    with pytest.raises(ValueError, match="no values"):
        compute_percentile([], 50)


def test_medians_are_taken_for_each_figure_and_failures_are_the_worst() -> None:
    rows = [
        Measurement(
            scenario="s", unit="requests", rate=rate, p50_ms=p50, failures=failures, note=note
        )
        for rate, p50, failures, note in ((1, 9, 0, ""), (2, None, 3, "x"), (9, 1, 0, "x"))
    ]
    row = take_medians(rows)
    assert (row.rate, row.p50_ms, row.failures, row.note) == (2, 5, 3, "x")
    assert row.peak_mb is None


def test_a_ratio_is_a_percentage_for_requests_and_a_factor_for_reports() -> None:
    assert format_ratio(Measurement(scenario="s", unit="requests", rate=80, floor=100)) == "80 %"
    assert format_ratio(Measurement(scenario="s", unit="items", rate=40, floor=100)) == "2.50 ×"
    assert format_ratio(Measurement(scenario="s", unit="items", rate=40)) == ""


def test_numbers_have_three_digits_or_more() -> None:
    formatted = [format_number(value) for value in (None, 0.123, 1.236, 12.34, 99.96, 1234.5, 1e6)]
    assert formatted == ["", "0.12", "1.24", "12.3", "100.0", "1,234", "1,000,000"]


def test_a_table_leaves_out_columns_without_figures() -> None:
    lines = format_table(
        [Measurement(scenario="one", unit="items", rate=1.5, note="odd")]
    ).splitlines()
    names = [name.strip() for name in lines[0].strip("|").split("|")]
    assert names == ["scenario", "clients", "per second", "note"]
    assert len({len(line) for line in lines}) == 1


def test_processor_time_is_read_after_any_program_name() -> None:
    numbers = "S 7 1 1 0 -1 4194304 1 2 3 4 100 50 30 20 20 0 1 0 5"
    stat = procfs.parse_stat(f"42 (a) b (c) {numbers}\n")
    ticks = os.sysconf("SC_CLK_TCK")
    assert stat == procfs.ProcessStat(parent=7, own=150 / ticks, reaped=50 / ticks)


def test_a_process_is_counted_with_its_children_alive_and_reaped() -> None:
    stats = {
        1: procfs.ProcessStat(parent=0, own=1.0, reaped=10.0),
        2: procfs.ProcessStat(parent=1, own=2.0, reaped=0.5),
        3: procfs.ProcessStat(parent=9, own=100.0, reaped=100.0),
    }
    assert procfs.sum_family_seconds(stats, 1) == 13.5


def test_peak_memory_is_in_megabytes_and_can_be_reset() -> None:
    assert procfs.parse_peak("VmPeak:\t 9 kB\nVmHWM:\t    2000 kB\nVmRSS:\t 1 kB\n") == 2.048
    pid = os.getpid()
    procfs.reset_peak(pid)
    before = procfs.read_peak_megabytes(pid)
    block = b"x" * 50_000_000
    assert procfs.read_peak_megabytes(pid) - before > 0.9 * len(block) / 1e6
    assert procfs.read_seconds(pid) > 0
    assert procfs.read_seconds_with_children(pid) >= procfs.read_seconds(pid)
