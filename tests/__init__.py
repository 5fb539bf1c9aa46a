"""The tests; :mod:`tests.support` holds what they share, with rewritten assertions."""

import pytest

pytest.register_assert_rewrite("tests.support")
