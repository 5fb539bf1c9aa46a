"""The permissions of investigators: their names, their bits and their sets."""

from __future__ import annotations

from mig.model.permissions import (
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


def test_each_permission_has_the_bit_that_existing_databases_use() -> None:
    assert {p.name: p.value for p in Permission} == {
        name.upper(): 1 << bit for bit, name in enumerate(NAMES)
    }


def test_a_new_investigator_may_search_read_and_create_actions() -> None:
    assert DEFAULT_PERMISSIONS.value == 0b111111
    assert DEFAULT_PERMISSIONS.member_names == NAMES[:6]


def test_each_other_set_holds_the_permissions_of_its_name() -> None:
    assert LOADER_PERMISSIONS.member_names == NAMES[6:11]
    assert MANIFEST_PERMISSIONS.member_names == NAMES[11:16]
    assert ADMIN_PERMISSIONS.member_names == NAMES[16:]


def test_all_permissions_include_every_permission() -> None:
    assert ALL_PERMISSIONS.member_names == NAMES
    assert ALL_PERMISSIONS.value == 2**19 - 1


def test_a_stored_number_converts_to_a_set_and_back() -> None:
    permissions = Permission(0b100001)
    assert Permission.SEARCH in permissions
    assert Permission.ACTION not in permissions
    assert f"{int(permissions)}" == "33"
