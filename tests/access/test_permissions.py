"""The permissions of investigators: their names, their bits and their sets."""

from __future__ import annotations

from mig.access.permissions import (
    ADMIN_PERMISSIONS,
    ALL_PERMISSIONS,
    DEFAULT_PERMISSIONS,
    LOADER_PERMISSIONS,
    MANIFEST_PERMISSIONS,
    Permission,
)

NAMES = [
    *("search", "action", "action_create", "command", "agent", "dashboard"),
    *("loader", "loader_status", "loader_expect", "loader_key", "loader_new"),
    *("manifest", "manifest_sign", "manifest_new", "manifest_status", "manifest_loaders"),
    *("investigator", "investigator_create", "investigator_update"),
]


def test_each_name_has_the_bit_that_stored_rows_give_it() -> None:
    assert {p.name: p.value for p in Permission} == {
        name.upper(): 1 << bit for bit, name in enumerate(NAMES)
    }


def test_a_new_investigator_may_use_all_but_loaders_manifests_and_investigators() -> None:
    assert DEFAULT_PERMISSIONS.value == 0b111111
    assert DEFAULT_PERMISSIONS.member_names == NAMES[:6]


def test_the_other_sets_are_the_groups_of_their_names() -> None:
    assert LOADER_PERMISSIONS.member_names == NAMES[6:11]
    assert MANIFEST_PERMISSIONS.member_names == NAMES[11:16]
    assert ADMIN_PERMISSIONS.member_names == NAMES[16:]


def test_all_permissions_are_every_one_of_them() -> None:
    assert ALL_PERMISSIONS.member_names == NAMES
    assert ALL_PERMISSIONS.value == 2**19 - 1


def test_a_stored_number_is_a_set_and_the_set_is_the_number() -> None:
    stored = Permission(0b100001)
    assert Permission.SEARCH in stored
    assert Permission.ACTION not in stored
    assert f"{int(stored)}" == "33"
