"""Investigators can be added and changed over HTTP, on the command line and by curl."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from mig.model.permissions import DEFAULT_PERMISSIONS
from mig.openpgp import certificate
from mig.openpgp.packet import split_packets
from tests.support.api import Answer, Api
from tests.support.cli import run_cli
from tests.support.fleet import VECTORS
from tests.support.json_types import Json
from tests.support.keys import (
    FAR_AHEAD,
    Key,
    Keys,
    decode_armor,
    encode_packet,
    encode_public_armor,
)
from tests.support.postgres import TestDatabase
from tests.support.submissions import (
    assert_accepted,
    assert_refused,
    build_text,
    check_nothing_left,
    make_action,
)

Make = Callable[[Keys], str | bytes]


@pytest.fixture
def database(empty_database: TestDatabase) -> TestDatabase:
    empty_database.execute("select setval('investigators_id_seq', 1, false)")
    return empty_database


async def create_investigator(api: Api, name: str, publickey: str | bytes) -> Answer:
    """Return the answer to a form with the key as a file."""
    key = publickey.encode() if isinstance(publickey, str) else publickey
    return await api.request(
        "POST",
        "/investigator/create/",
        data={"name": name},
        files={"publickey": ("key.asc", "application/octet-stream", key)},
    )


async def add_key(api: Api, key: Key) -> str:
    """Return the id of a new investigator."""
    response = await create_investigator(api, key.name, key.armored)
    assert response.code == 201, response.document
    (item,) = response.document["items"]
    assert response.get_header("Location") == item["href"]
    value = item["data"][0]["value"]
    assert (value["name"], value["status"]) == (key.name, "active")
    assert value["pgpfingerprint"] == key.fingerprint
    return str(value["id"])


# -- keys that are not accepted ----------------------------------------------------------------


def remove_packets(tag: int) -> Make:
    """Return a function that makes Alice's key without its packets of one type."""
    return lambda keys: encode_public_armor(
        b"".join(p.raw for p in split_packets(keys.alice.packets) if p.tag != tag)
    )


def replace_version(version: int) -> Make:
    def make(keys: Keys) -> str:
        first, *others = split_packets(keys.alice.packets)
        changed = encode_packet(6, bytes([version]) + first.body[1:])
        return encode_public_armor(changed + b"".join(p.raw for p in others))

    return make


def replace_exponent(keys: Keys) -> str:
    """Change an RSA key to the exponent 3; it cannot sign any more."""
    first, *others = split_packets(keys.rsa.packets)
    assert first.body.endswith(b"\0\x11\1\0\1")
    changed = encode_packet(6, first.body[:-5] + b"\0\2\3")
    return encode_public_armor(changed + b"".join(p.raw for p in others))


def add_packets(extra: Callable[[Keys], bytes]) -> Make:
    """Return a function that makes Alice's key and other packets in one armor."""
    return lambda keys: encode_public_armor(keys.alice.packets + extra(keys))


def adopt_key(victim: str, *, sub: bool) -> Make:
    def make(keys: Keys) -> str:
        key = getattr(keys, victim)
        fingerprint = key.signer[:-1] if sub else key.fingerprint
        return keys.make_adopting(f"takes {victim}", fingerprint).armored

    return make


def add_unbound_subkey(keys: Keys) -> str:
    """Add the subkey of another key with the binding that its owner made."""
    parts = [p.raw for p in split_packets(keys.subkey.packets)]
    return encode_public_armor(keys.stranger.packets + b"".join(parts[-2:]))


def use_as_primary_key(victim: str) -> Make:
    def make(keys: Keys) -> str:
        fingerprint = getattr(keys, victim).signer[:-1]
        return keys.make_with_primary(f"primary of {victim}", fingerprint).armored

    return make


def make_large_key(keys: Keys) -> str:
    return encode_public_armor(keys.alice.packets + encode_packet(13, b"x" * 65_000))


REFUSED: dict[str, tuple[str, Make]] = {
    "secret": ("this is a secret key: never send it", lambda keys: keys.export_secret(keys.alice)),
    "public then secret": (
        "this is a secret key: never send it",
        lambda keys: keys.alice.armored + keys.export_secret(keys.alice),
    ),
    "secret in a public armor": (
        "the armor contains a secret key: never send it",
        lambda keys: encode_public_armor(decode_armor(keys.export_secret(keys.alice))),
    ),
    "secret subkey": (
        "the armor contains a secret key: never send it",
        add_packets(
            lambda keys: split_packets(decode_armor(keys.export_secret(keys.subkey)))[-2].raw
        ),
    ),
    "two keys": ("there are several keys in one armor", add_packets(lambda keys: keys.bob.packets)),
    "two armors": ("there are 2 armors", lambda keys: keys.alice.armored + keys.bob.armored),
    "compressed": (
        "the key is compressed",
        lambda keys: encode_public_armor(encode_packet(8, b"\0" + keys.alice.packets)),
    ),
    "marker before": (
        "the key contains a packet of type 10",
        lambda keys: encode_public_armor(encode_packet(10, b"PGP") + keys.alice.packets),
    ),
    "trust": (
        "the key contains a packet of type 12",
        add_packets(lambda _: encode_packet(12, b"\1\6")),
    ),
    "literal data": (
        "the key contains a packet of type 11",
        add_packets(lambda _: encode_packet(11, b"b\0\0\0\0\0x")),
    ),
    "a signature": (
        "this is a PGP SIGNATURE, not a key",
        lambda keys: keys.make_message(keys.alice, b"x", "--detach-sign", "--armor"),
    ),
    "a signature in a key's armor": (
        "the armor contains a signature, not a public key",
        lambda keys: encode_public_armor(keys.make_message(keys.alice, b"x", "--detach-sign")),
    ),
    "a message": (
        "this is a PGP MESSAGE, not a key",
        lambda keys: keys.make_message(keys.alice, b"x", "--sign", "--armor"),
    ),
    "a clearsigned text": (
        "this is a PGP SIGNED MESSAGE, not a key",
        lambda keys: keys.make_message(keys.alice, b"x", "--clear-sign"),
    ),
    "garbage": ("the key is not armored", lambda _: "garbage"),
    "binary": ("not UTF-8", lambda keys: keys.alice.packets),
    "cut armor": (
        "the armor is cut short",
        lambda keys: keys.alice.armored[: len(keys.alice.armored) // 2],
    ),
    "half a key": (
        "the OpenPGP data is cut short",
        lambda keys: encode_public_armor(keys.alice.packets[: len(keys.alice.packets) // 2]),
    ),
    "only the key packet": (
        "the key has no user id",
        lambda keys: encode_public_armor(split_packets(keys.alice.packets)[0].raw),
    ),
    "text before": (
        "the armor is cut short or has text around it",
        lambda keys: "x\n" + keys.alice.armored,
    ),
    "text after": (
        "the armor is cut short or has text around it",
        lambda keys: keys.alice.armored + "x\n",
    ),
    "checksum": (
        "the key is damaged: its checksum does not match",
        lambda keys: replace_checksum(keys.alice.armored),
    ),
    "no user id": ("the key has no user id", remove_packets(13)),
    "no signature": ("the key has no user id; a name and its self-signature", remove_packets(2)),
    "RSA 1024": ("the key is too weak: it has 1024 bits", lambda keys: keys.rsa1024.armored),
    "DSA": ("the key is too weak: it is a DSA key", lambda keys: keys.dsa.armored),
    "of the future": (
        "the key is dated in the future",
        lambda keys: keys.make_key("future", time=FAR_AHEAD).armored,
    ),
    "RSA exponent 3": (
        "the key is too weak: its exponent is 3; an odd one from 17 on",
        replace_exponent,
    ),
    "secp256k1": (
        "the key is on secp256k1; Ed25519, NIST",
        lambda keys: keys.make_key("koblitz", "secp256k1").armored,
    ),
    "brainpool": (
        "the key is on brainpoolP256r1; Ed25519, NIST",
        lambda keys: keys.make_key("brainpool", "brainpoolP256r1").armored,
    ),
    "weak signing subkey": (
        "is too weak: it has 1024 bits",
        lambda keys: keys.add_subkey(keys.make_key("weak-subkey", usage="cert"), "rsa1024").armored,
    ),
    "encrypts only": (
        "the key cannot sign: it has no key or subkey for signing",
        lambda keys: keys.encrypts.armored,
    ),
    "expired": ("the key has expired", lambda keys: keys.expired.armored),
    "revoked": ("the key is revoked", lambda keys: keys.revoked.armored),
    "expired subkey": ("the key cannot sign", lambda keys: keys.expired_subkey.armored),
    "revoked subkey": ("the key cannot sign", lambda keys: keys.revoked_subkey.armored),
    **{
        f"version {n}": (
            f"OpenPGP keys of version {n} are not accepted; version 4 is",
            replace_version(n),
        )
        for n in (2, 3, 5, 6, 99)
    },
    "empty": ("the field publickey is missing or empty", lambda _: ""),
    "empty armor": ("the armor is empty", lambda _: encode_public_armor(b"")),
    "NUL": ("publickey contains a NUL character", lambda keys: keys.alice.armored + "\0"),
}


def replace_checksum(armored: str) -> str:
    lines = armored.strip().splitlines()
    assert lines[-2].startswith("=")
    lines[-2] = "=AAAA"
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", REFUSED)
@pytest_twisted.ensureDeferred
async def test_an_unsuitable_key_is_refused_with_a_reason(
    api: Api, database: TestDatabase, keys: Keys, temporary: Path, name: str
) -> None:
    says, make = REFUSED[name]
    response = await create_investigator(api, "Bob Kelso", make(keys))
    assert response.code == 400, response.document
    assert says in response.document["error"]["message"]
    assert database.execute("select count(*) from investigators") == [(0,)]
    check_nothing_left(temporary)
    await add_key(api, keys.alice)


@pytest.mark.parametrize("name", ["exponent-41", "weak-subkey-revoked"])
@pytest_twisted.ensureDeferred
async def test_a_real_key_that_looks_weak_but_is_not_is_taken(api: Api, name: str) -> None:
    """It has an odd exponent of 41, or a revoked signing subkey of 1024 bits."""
    armored = (VECTORS / "keys" / f"{name}.asc").read_text()
    response = await create_investigator(api, "Bob Kelso", armored)
    assert response.code == 201, response.document


@pytest_twisted.ensureDeferred
async def test_a_key_too_long_for_a_request_is_refused(
    api: Api, database: TestDatabase, keys: Keys
) -> None:
    response = await create_investigator(api, "Bob Kelso", make_large_key(keys))
    assert response.code == 413
    message = response.document["error"]["message"]
    assert "[limits] key_body_bytes in the service's configuration raises this" in message
    assert "`gpg --export-options export-minimal` makes a key shorter" in message
    assert database.execute("select count(*) from investigators") == [(0,)]


NAMES = {
    "": "the field name is empty",
    "  ": "name must not be empty",
    "x" * 1025: "name must have at most 1024 characters",
    "Bob\nKelso": "name must not contain the control character U+000A",
    "Bob\rKelso": "name must not contain the control character U+000D",
    "Bob\x1b[2J": "name must not contain the control character U+001B",
    "Bob\x7f": "name must not contain the control character U+007F",
    "Bob\x85Kelso": "name must not contain the control character U+0085",
    "Bob\u2028Kelso": "name must not contain the control character U+2028",
    "Bob\u202eosleK": "name must not contain the control character U+202E",
    "Bob\0Kelso": "name contains a NUL character",
}


@pytest_twisted.ensureDeferred
async def test_an_empty_long_or_unprintable_name_is_refused(
    api: Api, database: TestDatabase, keys: Keys
) -> None:
    """Any other name is stored without the blanks around it."""
    for name, says in NAMES.items():
        data = {"name": name, "publickey": keys.alice.armored}
        response = await api.request("POST", "/investigator/create/", data=data)
        assert response.code == 400, name
        assert says in response.document["error"]["message"]
    assert database.execute("select count(*) from investigators") == [(0,)]
    odd = "Bøb \u202fKelso 李"
    response = await create_investigator(api, f" {odd} ", keys.alice.armored)
    assert response.document["items"][0]["data"][0]["value"]["name"] == odd


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "the field name is missing"),
        ({"name": "Bob"}, "the field publickey is missing"),
        ({"publickey": "x"}, "the field name is missing"),
        ({"name": "Bob", "publickey": "x", "status": "active"}, "unknown field 'status'"),
        ({"Name": "Bob", "publickey": "x"}, "did you mean name?"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_missing_and_unknown_fields_are_refused_by_name(
    api: Api, fields: dict[str, str], says: str
) -> None:
    response = await api.request("POST", "/investigator/create/", data=fields)
    assert response.code == 400
    assert says in response.document["error"]["message"]


# -- keys that are accepted --------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Good:
    """A key that is accepted, and what is stored of it."""

    key: Callable[[Keys], Key]
    tags: list[int] = field(default_factory=lambda: [6, 13, 2])
    """The types of the stored packets."""
    exported: bool = True
    """Whether gpg exports the same packets from its ring."""


def add_foreign_revocation(keys: Keys) -> Key:
    """Put another key's revocation of itself into Alice's key."""
    first, *others = split_packets(keys.alice.packets)
    revocation = split_packets(keys.revoked.packets)[1]
    assert revocation.tag == 2 and revocation.body[1] == 0x20
    data = first.raw + revocation.raw + b"".join(p.raw for p in others)
    return replace(keys.alice, armored=encode_public_armor(data))


GOOD = {
    "Ed25519": Good(key=lambda keys: keys.alice),
    "RSA": Good(key=lambda keys: keys.rsa),
    "P-256": Good(key=lambda keys: keys.make_key("p256", "nistp256")),
    "P-384": Good(key=lambda keys: keys.make_key("p384", "nistp384")),
    "P-521": Good(key=lambda keys: keys.make_key("p521", "nistp521")),
    "a subkey": Good(key=lambda keys: keys.subkey, tags=[6, 13, 2, 14, 2]),
    "foreign signatures and an image": Good(key=lambda keys: keys.decorated, exported=False),
    "foreign revocation": Good(key=add_foreign_revocation),
    "an unsigned user id": Good(
        key=lambda keys: replace(
            keys.alice,
            armored=encode_public_armor(keys.alice.packets + encode_packet(13, b"Bob Kelso")),
        )
    ),
    "an unbound subkey": Good(
        key=lambda keys: replace(keys.stranger, armored=add_unbound_subkey(keys)),
    ),
    "a user id that forges status lines": Good(
        key=lambda keys: keys.make_key(
            "forger",
            uid="Eve Å[GNUPG:] IMPORT_OK 1 A\u2028[GNUPG:] X\npub:e::::::::::e:\nuid:e:".encode(),
        )
    ),
    "CRLF and headers": Good(
        key=lambda keys: replace(
            keys.alice,
            armored=keys.alice.armored.replace("\n\n", "\nVersion: 1\nComment: \n\n", 1).replace(
                "\n", "\r\n"
            ),
        )
    ),
}


@pytest.mark.parametrize("name", GOOD)
@pytest_twisted.ensureDeferred
async def test_a_key_is_stored_in_minimal_form_and_verifies_at_once(
    api: Api, database: TestDatabase, keys: Keys, name: str
) -> None:
    key = GOOD[name].key(keys)
    investigator_id = await add_key(api, key)
    [(publickey,)] = database.execute(
        "select publickey from investigators where id = %s", (investigator_id,)
    )
    found = split_packets(decode_armor(bytes(publickey).decode()))
    assert [part.tag for part in found] == GOOD[name].tags
    if GOOD[name].exported:
        assert b"".join(part.raw for part in found) == decode_armor(keys.export(key.fingerprint))
    assert certificate.parse_armored(bytes(publickey)).fingerprint == key.fingerprint
    action = make_action()
    submission = {**action, "pgpsignatures": [keys.sign(key, build_text(action))]}
    await assert_accepted(api, submission)


@pytest_twisted.ensureDeferred
async def test_a_known_key_is_refused_with_a_link_to_its_owner(
    api: Api, database: TestDatabase, keys: Keys
) -> None:
    investigator_id = await add_key(api, keys.bob)
    longer = keys.add_subkey(keys.make_key("longer", usage="cert"))
    first = replace(longer, armored=keys.export(longer.fingerprint))
    await add_key(api, first)
    for again in (keys.bob.armored, keys.bob.armored.replace("\n", "\r\n")):
        response = await create_investigator(api, "Mallory", again)
        assert response.code == 409
        (link,) = response.document["links"]
        assert link["href"] == f"{api.base}/investigator?investigatorid={investigator_id}"
        told = response.document["error"]["message"]
        assert told == f"this is the key of investigator {investigator_id}, 'bob'"
    assert (await create_investigator(api, "Mallory", longer.armored)).code == 409
    database.execute("update investigators set status = 'disabled'")
    assert (await create_investigator(api, "Mallory", keys.bob.armored)).code == 409
    assert database.execute("select count(*) from investigators") == [(2,)]


@pytest.mark.parametrize(
    ("make", "victim"),
    [
        (adopt_key("bob", sub=False), "bob"),
        (adopt_key("subkey", sub=True), "subkey"),
        (use_as_primary_key("subkey"), "subkey"),
    ],
    ids=["primary key", "subkey", "subkey as a primary key"],
)
@pytest_twisted.ensureDeferred
async def test_a_key_that_contains_another_investigators_key_is_refused(
    api: Api, database: TestDatabase, keys: Keys, make: Make, victim: str
) -> None:
    owner: Key = getattr(keys, victim)
    investigator_id = await add_key(api, owner)
    response = await create_investigator(api, "Mallory", make(keys))
    assert response.code == 400
    told = response.document["error"]["message"]
    assert (
        f"belongs to investigator {investigator_id}, {owner.name!r}; a key may have only one owner"
        in told
    )
    assert database.execute("select count(*) from investigators") == [(1,)]
    action = make_action()
    await assert_accepted(api, {**action, "pgpsignatures": [keys.sign(owner, build_text(action))]})


@pytest_twisted.ensureDeferred
async def test_a_key_that_is_already_another_investigators_subkey_is_refused(
    api: Api, database: TestDatabase, keys: Keys
) -> None:
    """The investigator with the subkey came before the owner of the key."""
    eve = keys.make_adopting("takes bob", keys.bob.fingerprint)
    investigator_id = await add_key(api, eve)
    response = await create_investigator(api, "bob", keys.bob.armored)
    assert response.code == 400
    assert f"belongs to investigator {investigator_id}" in response.document["error"]["message"]


# -- status ------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_status_can_be_changed_and_takes_effect_at_once(
    api: Api, database: TestDatabase, keys: Keys
) -> None:
    investigator_id = await add_key(api, keys.alice)

    async def update_status(**fields: str) -> Answer:
        return await api.request("POST", "/investigator/update/", data=fields)

    action = make_action()
    submission = {**action, "pgpsignatures": [keys.sign(keys.alice, build_text(action))]}
    for status in ("disabled", "disabled", "active"):
        response = await update_status(id=investigator_id, status=status)
        assert response.code == 200, response.document
        (item,) = response.document["items"]
        assert item["data"][0]["value"]["status"] == status
        assert response.get_header("Location") == item["href"]
        if status == "disabled":
            await assert_refused(api, submission, "is not active")
    await assert_accepted(api, submission)
    for fields, code, says in (
        ({"id": "99", "status": "active"}, 404, "there is no investigator 99"),
        ({"id": str(2**64 - 1), "status": "active"}, 404, "there is no investigator"),
        ({"id": investigator_id, "status": "Active"}, 400, "status must be active or disabled"),
        ({"id": investigator_id, "status": "deleted"}, 400, "status must be active or disabled"),
        ({"id": investigator_id}, 400, "the fields status, permissions and apikey are all"),
        ({"status": "active"}, 400, "the field id is missing"),
        ({"id": "0", "status": "active"}, 400, "id must be a whole number from 1"),
        ({"id": "abc", "status": "active"}, 400, "id must be a whole number from 1"),
        ({"id": "١", "status": "active"}, 400, "id must be a whole number from 1"),
        ({"id": "1_0", "status": "active"}, 400, "id must be a whole number from 1"),
        ({"id": str(2**64), "status": "active"}, 400, "id must be a whole number from 1"),
        ({"id": investigator_id, "status": "active", "name": "x"}, 400, "unknown field 'name'"),
    ):
        response = await update_status(**fields)
        assert response.code == code, fields
        assert says in response.document["error"]["message"]
    assert database.execute("select id, name, status from investigators") == [
        (int(investigator_id), "alice", "active")
    ]


# -- as the specification says -----------------------------------------------------------------


async def curl(*arguments: str) -> tuple[str, Json]:
    """Return the status line and the collection."""
    done = await deferToThread(
        subprocess.run, ["curl", *arguments], capture_output=True, text=True, timeout=30
    )
    head, _, body = done.stdout.rpartition("\n\n")
    statuses = [line for line in head.splitlines() if line.startswith("HTTP/")]
    return statuses[-1], json.loads(body)["collection"]


@pytest_twisted.ensureDeferred
async def test_the_curl_commands_of_the_specification_work(
    api: Api, database: TestDatabase, keys: Keys, tmp_path: Path
) -> None:
    """Only the host, the port and the folder differ."""
    file = tmp_path / "pubkey"
    file.write_text(keys.bob.armored)
    status, document = await curl(
        *("-iv", "-F", "name=Bob Kelso", "-F", f"publickey=@{file}"),
        f"{api.base}/investigator/create/",
    )
    assert status.startswith("HTTP/1.1 201 ")
    assert document["items"][0]["data"][0]["value"]["name"] == "Bob Kelso"
    database.execute("update investigators set id = 1234")
    status, document = await curl(
        *("-iv", "-X", "POST", "-d", "id=1234", "-d", "status=disabled"),
        f"{api.base}/investigator/update/",
    )
    assert status.startswith("HTTP/1.1 200 ")
    assert document["items"][0]["data"][0]["value"]["status"] == "disabled"


@pytest_twisted.ensureDeferred
async def test_changes_from_the_command_line_take_effect_at_once(
    api: Api, database: TestDatabase, keys: Keys, tmp_path: Path
) -> None:
    """They apply in a service that is running."""
    file = tmp_path / "key.asc"
    file.write_text(keys.bob.armored)

    def investigator(*arguments: str) -> Json:
        where = ("--database", database.dsn)
        return deferToThread(run_cli, "investigator", *arguments, *where)

    action = make_action()
    submission = {**action, "pgpsignatures": [keys.sign(keys.bob, build_text(action))]}
    await assert_refused(api, submission, "no investigator has the key")
    assert await investigator("add", "Bob Kelso", str(file)) == (0, "added investigator 1\n", "")
    await assert_accepted(api, submission)
    assert await investigator("disable", "1") == (0, "investigator 1 is disabled\n", "")
    await assert_refused(api, submission, "the investigator 'Bob Kelso' (1) is not active")
    permissions = ",".join(DEFAULT_PERMISSIONS.member_names)
    line = f"1\tdisabled\t{keys.bob.fingerprint}\tBob Kelso\t{permissions}\n"
    assert await investigator("list") == (0, line, "")
    assert await investigator("enable", "1") == (0, "investigator 1 is active\n", "")
    await assert_accepted(api, submission)
    file.write_text(keys.export_secret(keys.bob))
    for arguments, says in (
        (("add", "Bob", str(file)), "publickey: this is a secret key"),
        (("enable", "2"), "there is no investigator 2"),
        (("enable", "x"), "ID must be a whole number"),
    ):
        code, output, errors = await investigator(*arguments)
        assert (code, output) == (1, "")
        assert errors.startswith("mig-api: ") and says in errors and errors.count("\n") == 1
