"""The bare server is the floor of what it claims to be."""

from __future__ import annotations

from benchmarks import baseline_server


def test_each_path_of_the_bare_server_has_a_select_of_its_own() -> None:
    rules = [*baseline_server.make_application(None).url_map.iter_rules()]
    assert {rule.rule for rule in rules} == {
        "/heartbeat",
        *baseline_server.BY_ID,
        *baseline_server.FIXED,
    }
    assert len({rule.endpoint for rule in rules}) == len(rules)
