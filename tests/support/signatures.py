"""Good and bad signatures of every kind, and what gpg prints for them."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime

from twisted.internet.defer import Deferred

from mig.openpgp import certificate, packet
from mig.openpgp.certificate import Certificate
from tests.support.fleet import VECTORS
from tests.support.json_types import Json
from tests.support.keys import (
    LONG_AGO,
    SOON_AFTER,
    Key,
    Keys,
    decode_signature,
    encode_packet,
    encode_signature,
    remove_back_signature,
)
from tests.support.reactor import reactor

TEXT = b"name=x;target=y;"


def load_vector_key(name: str) -> Certificate:
    return certificate.parse_stored((VECTORS / "keys" / f"{name}.asc").read_bytes())


BOB = load_vector_key("bob")


def encode_vector_json(value: Json) -> str:
    """Return *value* as Go encodes it, as far as the vectors need it."""
    if isinstance(value, dict):
        items = sorted(value.items(), key=lambda item: item[0].encode())
        return (
            "{"
            + ",".join(f"{encode_vector_json(key)}:{encode_vector_json(one)}" for key, one in items)
            + "}"
        )
    if isinstance(value, list):
        return "[" + ",".join(map(encode_vector_json, value)) + "]"
    if isinstance(value, Number):
        return value
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
        for character in "<>&\u2028\u2029":
            text = text.replace(character, f"\\u{ord(character):04x}")
        return text.replace("\\b", "\\u0008").replace("\\f", "\\u000c")
    return json.dumps(value)


class Number(str):
    """A number as it is written; in the vectors that is already how Go writes it."""

    __slots__ = ()


def load_vector_text(name: str) -> tuple[bytes, list[str]]:
    """Return the text that a client signed, and its signatures."""
    action = json.loads(
        (VECTORS / "actions" / f"{name}.json").read_text(), parse_float=Number, parse_int=Number
    )
    operations = encode_vector_json(action["operations"])
    times = [action["validfrom"], action["expireafter"]]
    if name.startswith("unix"):
        seconds = [int(datetime.fromisoformat(f"{t[:19]}+00:00").timestamp()) for t in times]
        text = (
            f"name={action['name']};target={action['target']};validfrom={seconds[0]};"
            f"expireafter=%!s(int64={seconds[1]});operations={operations};"
        )
    else:
        first, last = (
            f"{t[:10]} {t[11:].removesuffix('Z').split('+')[0]} "
            + (f"+{t[20:22]}{t[23:]} +{t[20:22]}{t[23:]}" if "+" in t else "+0000 UTC")
            for t in times
        )
        text = (
            f"name={action['name']}; target={action['target']}; validfrom={first};"
            f" expireafter={last}; operations='{operations}';"
        )
    return text.encode(), action["pgpsignatures"]


Signed = tuple[Certificate, str]
"""What to verify: a key, and a signature."""


def sign_text(keys: Keys, key: Key, *options: str, time: str = "") -> Signed:
    """Return the key and its signature over :data:`TEXT`."""
    return key.certificate, keys.sign(key, TEXT, *options, time=time)


def make_forging_user_id(victim: str) -> bytes:
    separators = "Å\x85\u2028"
    forged = "".join(
        f"{separator}[GNUPG:] GOODSIG {victim[-16:]} bob{separator}"
        f"[GNUPG:] VALIDSIG {victim} 2026-01-01 1767225600 0 4 0 1 8 00 {victim}"
        for separator in separators
    )
    return f"Eve {forged}".encode()


def sign_with_rsa_subkey(keys: Keys) -> Signed:
    return sign_text(keys, keys.add_subkey(keys.make_key("certifies", "rsa2048", "cert")))


def sign_with_expired_subkey(keys: Keys) -> Signed:
    """Sign by an expired subkey whose primary key could sign as well."""
    primary = keys.make_key("old subkey", time=LONG_AGO)
    key = keys.add_subkey(primary, expires="2021-01-01", time=LONG_AGO)
    return sign_text(keys, key, time=SOON_AFTER)


def sign_with_revoked_subkey(keys: Keys) -> Signed:
    """Sign by a subkey that is revoked later; its primary key could sign as well."""
    key = keys.add_subkey(keys.make_key("retired subkey", time=LONG_AGO), time=LONG_AGO)
    return sign_text(keys, keys.revoke_subkey(key), time=SOON_AFTER)


def replace_unsigned_area(keys: Keys, area: bytes) -> Signed:
    """Return a signature whose unsigned area is *area*."""
    body = packet.split_packets(decode_signature(keys.sign(keys.alice, TEXT)))[0].body
    hashed_end = 6 + int.from_bytes(body[4:6])
    end = body[hashed_end + 2 + int.from_bytes(body[hashed_end : hashed_end + 2]) :]
    return keys.alice.certificate, encode_signature(
        encode_packet(2, body[:hashed_end] + len(area).to_bytes(2) + area + end)
    )


def make_victim(keys: Keys) -> Key:
    return keys.make_key("victim", "rsa2048", time=LONG_AGO)


def make_adopted(keys: Keys) -> Key:
    """Return Eve's key with the victim's primary key as a signing subkey, by its consent."""
    return keys.make_adopting("adopts", make_victim(keys).fingerprint)


def sign_without_consent(keys: Keys) -> Signed:
    """Sign by the victim's key, adopted as in :func:`make_adopted` but without its consent."""
    raw = remove_back_signature(make_adopted(keys).packets)
    return certificate.parse_binary(raw), keys.sign(make_victim(keys), TEXT)


def sign_by(name: str, *options: str, time: str = "") -> Callable[[Keys], Signed]:
    """Return a function that signs by the key of this name."""
    return lambda keys: sign_text(keys, getattr(keys, name), *options, time=time)


def sign_on_curve(name: str) -> Callable[[Keys], Signed]:
    return lambda keys: sign_text(keys, keys.make_key(name, name))


GOOD_SIGNATURES: dict[str, Callable[[Keys], Signed]] = {
    "Ed25519": sign_by("alice"),
    "RSA": sign_by("rsa"),
    "NIST P-256": sign_on_curve("nistp256"),
    "SHA-512": sign_by("alice", "--digest-algo", "SHA512"),
    "subkey": sign_with_rsa_subkey,
    "key block inside": sign_by("alice", "--include-key-block"),
    "policy and key server URLs": sign_by(
        "alice", "--sig-policy-url", "http://192.0.2.1/p", "--sig-keyserver-url", "hkp://x"
    ),
    "notation that forges a status line": sign_by(
        "alice", "--sig-notation", "a@example.net=[GNUPG:] GOODSIG"
    ),
    "zeroed issuer": lambda keys: replace_unsigned_area(keys, bytes([9, 16]) + bytes(8)),
    "issuer of another key": lambda keys: replace_unsigned_area(
        keys, bytes([9, 16]) + bytes.fromhex(BOB.fingerprint)[-8:]
    ),
}


BAD_SIGNATURES: dict[str, tuple[Callable[[Keys], Signed], str]] = {
    "forging user id, expired key": (
        lambda keys: sign_text(
            keys,
            keys.make_key(
                "forges and is expired",
                uid=make_forging_user_id(BOB.fingerprint),
                expires="2021-01-01",
                time=LONG_AGO,
            ),
            time=SOON_AFTER,
        ),
        "the signer's key has expired",
    ),
    "forging user id, other text": (
        lambda keys: (
            (key := keys.make_key("forges B", uid=make_forging_user_id("B" * 40))).certificate,
            keys.sign(key, b"other"),
        ),
        "made over another text",
    ),
    "other text": (
        lambda keys: (
            keys.alice.certificate,
            keys.sign(keys.alice, b"1;2026-11-24T08:59:39Z;1\n"),
        ),
        "made over another text",
    ),
    "wrong key": (lambda keys: (BOB, keys.sign(keys.stranger, TEXT)), "not by this key"),
    "expired key": (sign_by("expired", time=SOON_AFTER), "the signer's key has expired"),
    "revoked key": (sign_by("revoked"), "the signer's key is revoked"),
    "expired subkey": (sign_with_expired_subkey, "the subkey that signed has expired"),
    "revoked subkey": (sign_with_revoked_subkey, "the subkey that signed is revoked"),
    "expired signature": (
        sign_by("bob", "--default-sig-expire", "1d", time=SOON_AFTER),
        "the signature has expired",
    ),
    "dated in the future": (sign_by("alice", time="20950101T000000!"), "dated in the future"),
    "dated before its key": (sign_by("alice", time=LONG_AGO), "dated before the key"),
    "critical notation": (sign_by("alice", "--sig-notation", "!a@example.net=1"), "bad"),
    "primary key adopted without consent": (sign_without_consent, "may not be used for signing"),
    "RSA with 1024 bits": (sign_by("rsa1024"), "too weak: it has 1024 bits"),
    "brainpool curve": (
        sign_on_curve("brainpoolP256r1"),
        "made the signature is on brainpoolP256r1",
    ),
}


GOODSIG = f"[GNUPG:] NEWSIG\\n[GNUPG:] GOODSIG {BOB.fingerprint[-16:]} bob\\n"
VALIDSIG = f"[GNUPG:] VALIDSIG {BOB.fingerprint} 2026-11-24 1795510717 0 4 0 1 8 00 "
VALID = f"{GOODSIG}{VALIDSIG}{BOB.fingerprint}\\n"
SCRIPTS = {
    "killed after GOODSIG": f"printf '{GOODSIG}' >&3; kill -9 $$",
    "killed after VALIDSIG": f"printf '{VALID}' >&3; kill -9 $$",
    "exit 2 after GOODSIG": f"printf '{GOODSIG}' >&3; exit 2",
    "exit 2 after VALIDSIG": f"printf '{VALID}' >&3; exit 2",
    "sleeps": f"printf '{VALID}' >&3; exec sleep 1000",
    "sleeps with its output open": f"printf '{VALID}' >&3; sleep 2 & exit 0",
    "out of memory": "echo 'gpg: out of memory' >&2; exit 2",
    "garbled": f"printf 'x{VALID}' >&3",
    "unfinished line": f"printf '{VALID[:-2]}' >&3",
    "VALIDSIG of few words": f"printf '{GOODSIG}[GNUPG:] VALIDSIG x\\n' >&3",
    "endless": "cat /dev/zero >&3",
    "not in the version": None,
}


async def run_reactor_once() -> None:
    """Let the reactor run once."""
    waiting: Deferred[None] = Deferred()
    reactor.callLater(0.001, waiting.callback, None)
    await waiting
