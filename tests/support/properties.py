"""How many examples the property tests try."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

REPETITIONS = int(os.environ.get("REPETITIONS", "1"))
"""The factor by which the property tests try more examples."""


def load_profile() -> None:
    """Set the number of examples; without repetitions each run tries the same ones."""
    settings.register_profile(
        "mig",
        max_examples=60 * REPETITIONS,
        deadline=None,
        derandomize=REPETITIONS == 1,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    settings.load_profile("mig")
