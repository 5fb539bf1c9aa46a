"""How many examples the property tests try."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

REPETITIONS = int(os.environ.get("REPETITIONS", "1"))
"""How many times as many examples the property tests try."""


def load_profile() -> None:
    """Set the number of examples; a run without repetitions tries the same ones each time."""
    settings.register_profile(
        "mig",
        max_examples=60 * REPETITIONS,
        deadline=None,
        derandomize=REPETITIONS == 1,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    settings.load_profile("mig")
