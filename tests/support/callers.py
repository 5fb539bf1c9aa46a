"""Investigators of every kind, and the credentials of their requests."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from hashlib import pbkdf2_hmac

from mig.access.apikeys import hash_key, make_key
from mig.model.permissions import ALL_PERMISSIONS, DEFAULT_PERMISSIONS, Permission
from tests.support.keys import Key, Keys
from tests.support.postgres import TestDatabase

Headers = dict[str, str]
_nonces = itertools.count(1)


def add_investigator(
    database: TestDatabase,
    name: str = "automation",
    key: Key | None = None,
    permissions: Permission = DEFAULT_PERMISSIONS,
    status: str = "active",
) -> int:
    """Add an investigator, and return the id."""
    [[investigator_id]] = database.execute(
        "insert into investigators (name, pgpfingerprint, publickey, status, permissions,"
        " createdat, lastmodified) values (%s, %s, %s, %s, %s, now(), now()) returning id::bigint",
        (
            name,
            key and key.fingerprint,
            key and key.armored.encode(),
            status,
            int(permissions),
        ),
    )
    return int(investigator_id)


def add_api_key(
    database: TestDatabase,
    investigator_id: int,
    permissions: Permission = ALL_PERMISSIONS,
    expires: str | None = None,
) -> str:
    """Add an API key, and return its text; *expires* is an interval from now."""
    [[key_id]] = database.execute("select nextval('apikeys_id_seq')")
    text = make_key(key_id)
    database.execute(
        "insert into apikeys (id, investigatorid, name, keyhash, permissions, expiresat)"
        " values (%s, %s, 'of a test', %s, %s, now() + %s::interval)",
        (key_id, investigator_id, hash_key(text), int(permissions), expires),
    )
    return text


def set_old_key(database: TestDatabase, investigator_id: int, text: str) -> None:
    """Give an investigator a key as the API of 2017 stores it."""
    salt = hash_key(f"{investigator_id}{text}")[:16]
    hashed = pbkdf2_hmac("sha256", text.encode(), salt, 4096, 32)
    database.execute(
        "update investigators set apikey = %s, apisalt = %s where id = %s",
        (hashed, salt, investigator_id),
    )


def make_token(
    keys: Keys,
    key: Key,
    *options: str,
    age: float = 0,
    now: datetime | None = None,
    text: bytes | None = None,
) -> str:
    """Return a token as clients make it; *options* are those of gpg.

    :param text: what is signed instead of the text of the token.
    """
    made = (now or datetime.now(UTC)) - timedelta(seconds=age)
    signed = f"1;{made.strftime('%Y-%m-%dT%H:%M:%SZ')};{next(_nonces)}"
    signature = keys.sign(key, f"{signed}\n".encode() if text is None else text, *options)
    return f"{signed};{signature}"


def with_token(token: str, address: str = "") -> Headers:
    """Return the headers of a request with a token, from an address."""
    return {"X-PGPAUTHORIZATION": token, **from_address(address)}


def with_key(key: str, address: str = "") -> Headers:
    """Return the headers of a request with an API key, from an address."""
    return {"X-MIGAPIKEY": key, **from_address(address)}


def from_address(address: str) -> Headers:
    """Return the header that names the client, as a proxy sets it."""
    return {"X-Forwarded-For": address} if address else {}
