"""The tests; what they share is in :mod:`tests.support`, whose assertions explain themselves."""

import pytest

pytest.register_assert_rewrite("tests.support")
