"""The baseline server queries the database for each of its paths."""

from __future__ import annotations

from benchmarks import baseline_server


def test_each_path_of_the_baseline_server_has_its_own_query() -> None:
    rules = [*baseline_server.make_application(None).url_map.iter_rules()]
    assert {rule.rule for rule in rules} == {
        "/heartbeat",
        *baseline_server.BY_ID,
        *baseline_server.FIXED,
    }
    assert len({rule.endpoint for rule in rules}) == len(rules)
