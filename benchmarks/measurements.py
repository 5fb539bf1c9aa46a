"""The rows that scenarios return, with percentiles and medians."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any


def compute_percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest of the sorted ``values`` that ``share`` percent of them do not exceed.

    :raises ValueError: when there are no values.
    """
    if not values:
        raise ValueError("no values")
    rank = -(-len(values) * share // 100)  # rounded up
    return values[max(0, int(rank) - 1)]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One line of the table; ``None`` stands for what was not measured.

    :param floor: the rate of the floor, in the unit of ``rate``; ``floor_is`` describes the floor.
    :param scaling: the rate as a multiple of the rate of one process on one core.
    """

    scenario: str
    unit: str
    connections: int = 1
    processes: int = 1
    count: float = 0
    rate: float | None = None
    floor: float | None = None
    floor_is: str = ""
    first_byte_ms: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    max_ms: float | None = None
    peak_mb: float | None = None
    daemon_cpu_s: float | None = None
    postgres_cpu_s: float | None = None
    client_cpu_s: float | None = None
    megabytes: float | None = None
    scaling: float | None = None
    failures: float = 0
    note: str = ""
    statuses: dict[str, int] = field(default_factory=dict)

    @property
    def times_floor(self) -> float | None:
        """The time as a multiple of the floor's."""
        return self.floor / self.rate if self.floor and self.rate else None


def take_medians(rows: Sequence[Measurement]) -> Measurement:
    """Return one row for several runs of a scenario; each number is the median of the runs."""
    middle: dict[str, Any] = {}
    for one in fields(Measurement):
        values = [getattr(row, one.name) for row in rows]
        numbers = [value for value in values if isinstance(value, int | float)]
        if numbers:
            middle[one.name] = statistics.median(numbers)
    worst = max(row.failures for row in rows)
    notes = "; ".join(dict.fromkeys(row.note for row in rows if row.note))
    return replace(rows[0], **middle | {"failures": worst, "note": notes})
