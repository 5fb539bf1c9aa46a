"""Attacks on POST /action/create/, through a real socket, with the real gpg and database.

The first rows are about signatures and keys, the later ones about what is signed and how it is
written.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote_plus

import pytest
import pytest_twisted

from mig.openpgp.packet import split_packets
from tests.support.api import Api
from tests.support.json_types import Json
from tests.support.keys import (
    FAR_AHEAD,
    LONG_AGO,
    SOON_AFTER,
    Key,
    decode_signature,
    encode_packet,
    encode_public_armor,
    encode_signature,
    remove_back_signature,
    replace_issuer,
    replace_version,
)
from tests.support.postgres import TestDatabase
from tests.support.submissions import (
    FORM,
    JSON,
    Case,
    RawBody,
    assert_accepted,
    assert_refused,
    build_text,
    check_nothing_left,
    check_nothing_stored,
    list_spool,
    make_action,
)

Sign = Callable[[str, "Case"], str]


# -- how submissions are made ------------------------------------------------------------------


def sign_with(
    name: str = "alice",
    *options: str,
    form: str = "unix",
    time: str = "",
    status: str | None = "active",
    then: Sign = lambda signature, case: signature,
) -> Callable[[Case], Json]:
    """Return an action with one signature by the key of this name, changed by *then*."""

    def make(case: Case) -> Json:
        key = getattr(case.keys, name)
        if status is not None:
            case.add_investigator(key, status)
        action = make_action()
        signature = case.make_signature(action, key, *options, form=form, time=time)
        return {**action, "pgpsignatures": [then(signature, case)]}

    return make


def surround(head: bytes, tail: bytes = b"") -> Sign:
    """Return a change that puts packets before and after the signature."""
    return lambda signature, case: encode_signature(head + decode_signature(signature) + tail)


def add_signature(name: str, *, first: bool = False) -> Sign:
    """Add a signature to the same line: one over another text when *name* is ``bad``."""

    def then(signature: str, case: Case) -> str:
        text = build_text(make_action())
        other = (
            case.keys.sign(case.keys.alice, b"another text")
            if name == "bad"
            else case.keys.sign(getattr(case.keys, name), text)
        )
        both = [decode_signature(signature), decode_signature(other)]
        return encode_signature(b"".join(reversed(both) if first else both))

    return then


def sign_inline(*options: str, plain: bool = False) -> Callable[[Case], Json]:
    """Make a signature that is a whole message, with or without its frame lines."""

    def make(case: Case) -> Json:
        text = case.keys.make_message(case.keys.alice, build_text(make_action()), *options)
        signature = text.decode() if plain else encode_signature(text)
        return {**make_action(), "pgpsignatures": [signature]}

    return make


def sign_other_text(text: bytes) -> Callable[[Case], Json]:
    """Put Alice's signature over another text into the action."""
    return lambda case: {
        **make_action(),
        "pgpsignatures": [case.keys.sign(case.keys.alice, text)],
    }


def edit_after_signing(**members: Json) -> Callable[[Case], Json]:
    """Sign an action, then change its members."""
    return lambda case: {**case.sign_action(make_action()), **members}


def change_version(version: int) -> Sign:
    """Change the version number of the signature."""
    return lambda signature, _: replace_version(signature, version)


def edit_before_signing(*, form: str = "unix", **members: Json) -> Callable[[Case], Json]:
    """Change the members of an action, then sign it."""
    return lambda case: case.sign_action(make_action(**members), form=form)


def replace_in_text(old: str, new: str, **members: Json) -> Callable[[Case], Json]:
    """Sign an action, then change its JSON text."""

    def make(case: Case) -> str:
        text = json.dumps(case.sign_action(make_action(**members)))
        assert text.count(old) == 1, text
        return text.replace(old, new)

    return make


def replace_in_bytes(old: bytes, new: bytes, content_type: str = FORM) -> Callable[[Case], Json]:
    """Sign an action, then change the bytes of its JSON text."""

    def make(case: Case) -> RawBody:
        text = json.dumps(case.sign_action(make_action())).encode()
        assert text.count(old) == 1
        changed = text.replace(old, new)
        return RawBody(
            body=b"action=" + quote_plus(changed).encode() if content_type == FORM else changed,
            content_type=content_type,
        )

    return make


def use_signatures(make: Callable[[Case], list[Json]]) -> Callable[[Case], Json]:
    return lambda case: {**make_action(), "pgpsignatures": make(case)}


def adopt_key(victim: str, kind: str, *, sub: bool) -> Callable[[Case], Json]:
    """Let Eve, who became an investigator before the victim, have the victim's key as a subkey."""

    def make(case: Case) -> Json:
        key = getattr(case.keys, victim)
        fingerprint = key.signer[:-1] if sub else key.fingerprint
        capabilities = ("s", "a") if kind == "other use" else ()
        name = f"{victim}'s {kind}"
        eve = case.keys.make_adopting(name, fingerprint, *capabilities)
        if kind == "no consent":
            eve = replace(eve, armored=encode_public_armor(remove_back_signature(eve.packets)))
        case.add_investigator(eve)
        return sign_with(victim)(case)

    return make


def merge_keys(case: Case) -> Json:
    """Put the victim's subkey, with its owner's binding, into Eve's certificate."""
    eve, victim = case.keys.stranger, case.keys.subkey
    parts = [part.raw for part in split_packets(victim.packets)]
    case.add_investigator(
        Key(
            name="eve",
            fingerprint=eve.fingerprint,
            signer=eve.signer,
            armored=encode_public_armor(eve.packets + b"".join(parts[-2:])),
        )
    )
    return sign_with("subkey")(case)


FORGING_USER_IDS = {
    "C3 85": "Eve Å[GNUPG:] VALIDSIG {bob} 2026-01-01 1767225600 0 4 0 22 8 00 {bob}".encode(),
    "U+2028": "Eve \u2028[GNUPG:] GOODSIG {id} bob\u2028[GNUPG:] VALIDSIG {bob}".encode(),
    "U+0085": "Eve \u0085[GNUPG:] VALIDSIG {bob}".encode(),
    "1C": b"Eve \x1c[GNUPG:] VALIDSIG {bob}",
    "85": b"Eve \x85[GNUPG:] VALIDSIG {bob}",
    "newline": b"Eve \n[GNUPG:] VALIDSIG {bob}",
}


def forge_user_id(name: str, *, good: bool = True, expired: bool = False) -> Callable[[Case], Json]:
    """Sign by a key whose user id forges status lines of gpg."""

    def make(case: Case) -> Json:
        bob = case.keys.bob
        case.add_investigator(bob)
        uid = FORGING_USER_IDS[name].replace(b"{bob}", bob.fingerprint.encode())
        uid = uid.replace(b"{id}", bob.key_id.encode())
        eve = case.keys.make_key(
            f"eve {name} {expired}",
            uid=uid,
            expires="2020-06-01" if expired else "0",
            time=LONG_AGO,
        )
        case.add_investigator(eve)
        text = build_text(make_action()) if good else b"another text"
        signature = case.keys.sign(eve, text, time=SOON_AFTER)
        return {**make_action(), "pgpsignatures": [signature]}

    return make


# -- the table ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Row:
    """A submission, and how the service answers it."""

    name: str
    make: Callable[[Case], Json]
    status: int = 400
    says: str = ""
    """Part of the reason; empty when the submission is accepted."""
    signers: tuple[str, ...] = ()
    """The names of the signers, when it is accepted."""
    in_spool: str = ""
    """Part of the file in the spool."""


def expect_refused(name: str, says: str, make: Callable[[Case], Json], status: int = 400) -> Row:
    return Row(name=name, says=says, make=make, status=status)


def expect_accepted(
    name: str, make: Callable[[Case], Json], *signers: str, in_spool: str = ""
) -> Row:
    return Row(name=name, make=make, signers=signers or ("alice",), in_spool=in_spool)


def sign_with_several(*names: str) -> Callable[[Case], Json]:
    """Sign by each of them; a signer named twice signs both texts."""

    def make(case: Case) -> Json:
        action = make_action()
        signatures = []
        for n, name in enumerate(names):
            key = getattr(case.keys, name)
            case.add_investigator(key)
            form = "gotime" if name in names[:n] else "unix"
            signatures.append(case.make_signature(action, key, form=form))
        return {**action, "pgpsignatures": signatures}

    return make


def change_fingerprint(name: str) -> Sign:
    """Change the signed fingerprint of the issuer to that of another key."""

    def then(signature: str, case: Case) -> str:
        key = getattr(case.keys, name)
        case.add_investigator(key)
        data = decode_signature(signature)
        old = bytes.fromhex(case.keys.alice.fingerprint)
        assert data.count(old) == 1
        return encode_signature(data.replace(old, bytes.fromhex(key.fingerprint)))

    return then


def sign_by_future_key(case: Case) -> Json:
    key = case.keys.make_key("future", time=FAR_AHEAD)
    case.add_investigator(key)
    return {
        **make_action(),
        "pgpsignatures": [case.make_signature(make_action(), key, time=FAR_AHEAD)],
    }


def nest_arrays(levels: int) -> Json:
    value: Json = 1
    for _ in range(levels):
        value = [value]
    return value


OTHER_TEXT = "pgpsignatures[0]: it is not a signature over this action, in either of its two texts"
FIRST = "pgpsignatures[0]: "
TIME = "validfrom must be an RFC 3339 date, for example"
BIG = 2**53
MARKER = encode_packet(10, b"PGP")
TRUST = encode_packet(12, b"\1\6")

ROWS = [
    expect_accepted("unix text", sign_with()),
    expect_accepted("gotime text", sign_with(form="gotime")),
    expect_accepted("RSA", sign_with("rsa"), "rsa"),
    expect_accepted("a subkey", sign_with("subkey"), "subkey"),
    *[
        expect_accepted(f"forging user id, {uid}", forge_user_id(uid), f"eve {uid} False")
        for uid in FORGING_USER_IDS
    ],
    *[
        expect_refused(
            f"forging user id, bad signature, {uid}", OTHER_TEXT, forge_user_id(uid, good=False)
        )
        for uid in FORGING_USER_IDS
    ],
    *[
        expect_refused(
            f"forging user id, expired key, {uid}",
            FIRST + "the signer's key has expired",
            forge_user_id(uid, expired=True),
        )
        for uid in FORGING_USER_IDS
    ],
    expect_refused("signature over another text", OTHER_TEXT, sign_other_text(b"another text")),
    expect_refused(
        "signature over a token", OTHER_TEXT, sign_other_text(b"1;2026-01-02T03:04:05Z;4711\n")
    ),
    expect_refused(
        "signature over one more line end",
        OTHER_TEXT,
        sign_other_text(build_text(make_action()) + b"\n"),
    ),
    expect_refused("SHA-1", FIRST + "SHA-1 is weak", sign_with("rsa", "--digest-algo", "SHA1")),
    expect_refused("MD5", FIRST + "MD5 is weak", sign_with("rsa", "--digest-algo", "MD5")),
    expect_refused(
        "RIPEMD-160", FIRST + "RIPEMD-160 is weak", sign_with("rsa", "--digest-algo", "RIPEMD160")
    ),
    expect_accepted("SHA-224", sign_with("rsa", "--digest-algo", "SHA224"), "rsa"),
    expect_accepted("SHA-512", sign_with("rsa", "--digest-algo", "SHA512"), "rsa"),
    expect_refused(
        "text-mode signature",
        FIRST + "the signature's class is 0x01",
        sign_with("rsa", "--textmode"),
    ),
    expect_refused(
        "expired key", FIRST + "the signer's key has expired", sign_with("expired", time=SOON_AFTER)
    ),
    expect_refused("revoked key", FIRST + "the signer's key is revoked", sign_with("revoked")),
    expect_refused(
        "expired subkey",
        FIRST + "the subkey that signed has expired",
        sign_with("expired_subkey", time=SOON_AFTER),
    ),
    expect_refused(
        "revoked subkey",
        FIRST + "the subkey that signed is revoked",
        sign_with("revoked_subkey"),
    ),
    expect_refused(
        "expired signature",
        FIRST + "the signature has expired",
        sign_with("bob", "--default-sig-expire", "1d", time=SOON_AFTER),
    ),
    expect_refused(
        "signature dated in the future",
        FIRST + "the signature is dated in the future",
        sign_with(time=FAR_AHEAD),
    ),
    expect_refused(
        "signature dated before its key",
        FIRST + "the signature is dated before the key that made it",
        sign_with(time=LONG_AGO),
    ),
    expect_refused(
        "good and bad signature in one line",
        FIRST + "the signature contains 2",
        sign_with(then=add_signature("bad")),
    ),
    expect_refused(
        "bad and good signature in one line",
        FIRST + "the signature contains 2",
        sign_with(then=add_signature("bad", first=True)),
    ),
    expect_refused(
        "unknown and good signature in one line",
        FIRST + "the signature contains 2",
        sign_with(then=add_signature("stranger", first=True)),
    ),
    expect_refused(
        "two good signatures in one line",
        FIRST + "the signature contains 2",
        sign_with(then=add_signature("alice")),
    ),
    expect_refused(
        "compressed signature",
        FIRST + "the signature contains compressed data",
        sign_with(
            then=lambda signature, _: encode_signature(
                encode_packet(8, b"\0" + decode_signature(signature))
            )
        ),
    ),
    expect_refused(
        "marker packet",
        FIRST + "the signature contains a packet of type 10",
        sign_with(then=surround(MARKER)),
    ),
    expect_refused(
        "trust packet before",
        FIRST + "the signature contains a packet of type 12",
        sign_with(then=surround(TRUST)),
    ),
    expect_refused(
        "trust packet after",
        FIRST + "the signature contains a packet",
        sign_with(then=surround(b"", TRUST)),
    ),
    expect_refused(
        "junk after the signature",
        FIRST + "the data is not OpenPGP",
        sign_with(then=surround(b"", b"junk")),
    ),
    expect_refused(
        "signature cut short",
        FIRST + "the OpenPGP data is cut short",
        sign_with(then=lambda s, _: encode_signature(decode_signature(s)[:-1])),
    ),
    expect_refused(
        "packet of partial length",
        FIRST + "an OpenPGP packet in parts",
        sign_with(then=lambda s, _: encode_signature(b"\xc2\xe1" + decode_signature(s)[2:])),
    ),
    expect_refused(
        "space in the signature",
        FIRST + "this is not a signature",
        sign_with(then=lambda s, _: s[:40] + " " + s[40:]),
    ),
    expect_refused(
        "line end in the signature",
        FIRST + "this is not a signature",
        sign_with(then=lambda s, _: s[:64] + "\n" + s[64:]),
    ),
    expect_refused(
        "wrong checksum",
        FIRST + "the signature is damaged: its checksum",
        sign_with(then=lambda s, _: s[:-4] + "AAAA"),
    ),
    expect_refused(
        "missing checksum",
        FIRST + "the signature has no checksum, which agents need",
        sign_with(then=lambda s, _: s[:-5]),
    ),
    expect_refused(
        "clearsigned text",
        FIRST + "the signature is a clearsigned text",
        sign_inline("--clear-sign", plain=True),
    ),
    expect_refused(
        "inline-signed message",
        FIRST + "the signature contains an inline-signed message",
        sign_inline("--sign", "--compress-algo", "none"),
    ),
    expect_refused(
        "compressed inline-signed message",
        FIRST + "an OpenPGP packet without a length is not accepted",
        sign_inline("--sign", "--compress-algo", "zip"),
    ),
    expect_refused(
        "armored signature",
        FIRST + "the signature is an armor with its frame lines",
        sign_inline("--detach-sign", "--armor", plain=True),
    ),
    expect_refused(
        "unknown key with its key block",
        FIRST + "no investigator has the key",
        sign_with("stranger", "--include-key-block", status=None),
    ),
    expect_accepted(
        "policy and key server URLs",
        sign_with(
            "alice",
            "--sig-keyserver-url",
            "http://localhost:9/",
            "--sig-policy-url",
            "http://localhost:9/",
        ),
    ),
    expect_refused(
        "critical notation", OTHER_TEXT, sign_with("alice", "--sig-notation", "!x@example.net=1")
    ),
    expect_accepted(
        "notation that is not critical", sign_with("alice", "--sig-notation", "x@example.net=1")
    ),
    expect_refused(
        "10,000 signatures in one line",
        FIRST + "a signature must have at most 4096 characters",
        sign_with(then=lambda s, _: encode_signature(decode_signature(s) * 10_000)),
    ),
    expect_refused(
        "100,000 signatures in one line",
        "the body of this request must be at most 10485760 bytes; [limits] action_body_bytes in",
        sign_with(then=lambda s, _: encode_signature(decode_signature(s) * 100_000)),
        413,
    ),
    expect_refused(
        "signature of 100,000 characters",
        FIRST + "a signature must have at most 4096 characters, not 100000",
        use_signatures(lambda _: ["A" * 100_000]),
    ),
    expect_refused(
        "2,000 signatures",
        "pgpsignatures must have at most 20 signatures",
        use_signatures(lambda _: [f"{n}" for n in range(2_000)]),
    ),
    expect_refused(
        "no signatures",
        "pgpsignatures must be an array of signatures",
        use_signatures(lambda _: []),
    ),
    expect_refused(
        "empty signature", FIRST + "the signature is empty", use_signatures(lambda _: [""])
    ),
    expect_refused(
        "signature that is a number",
        "pgpsignatures[0] must be a string",
        use_signatures(lambda _: [1]),
    ),
    expect_refused(
        "the same signature twice",
        "pgpsignatures[1] repeats an earlier signature",
        lambda case: {**make_action(), "pgpsignatures": [case.make_signature(make_action())] * 2},
    ),
    expect_refused(
        "good and bad signature",
        "pgpsignatures[1]: it is not a signature over this action",
        use_signatures(
            lambda case: [case.make_signature(make_action()), case.keys.sign(case.keys.alice, b"x")]
        ),
    ),
    expect_refused(
        "good and unknown signer",
        "pgpsignatures[1]: no investigator has the key",
        use_signatures(
            lambda case: [
                case.make_signature(make_action()),
                case.make_signature(make_action(), case.keys.stranger),
            ]
        ),
    ),
    expect_accepted("zeroed issuer", sign_with(then=lambda s, _: replace_issuer(s, "0" * 16))),
    expect_accepted(
        "issuer of another key",
        sign_with(then=lambda s, case: replace_issuer(s, case.keys.stranger.key_id)),
    ),
    *[
        expect_accepted(f"{victim}, adopted: {kind}", adopt_key(victim, kind, sub=sub), victim)
        for victim, sub in (("bob", False), ("subkey", True))
        for kind in ("other use", "no consent")
    ],
    *[
        expect_refused(
            f"{victim}, adopted: shared",
            FIRST + "the key that made it belongs to several investigators",
            adopt_key(victim, "shared", sub=sub),
        )
        for victim, sub in (("bob", False), ("subkey", True))
    ],
    expect_accepted("subkey bound by another key", merge_keys, "subkey"),
    *[
        expect_refused(
            f"signature of version {n}",
            FIRST + f"OpenPGP signatures of version {n} are not accepted; version 4 is",
            sign_with(then=change_version(n)),
        )
        for n in (2, 3, 5, 6, 99)
    ],
    expect_refused(
        "RSA with 1024 bits",
        FIRST + "the key that made the signature is too weak: it has 1024 bits",
        sign_with("rsa1024", "--digest-algo", "SHA256"),
    ),
    expect_refused(
        "DSA",
        FIRST + "DSA signatures are not accepted",
        sign_with("dsa", "--digest-algo", "SHA256"),
    ),
    expect_refused(
        "disabled signer",
        FIRST + "the investigator 'bob' (2) is not active",
        sign_with("bob", status="disabled"),
    ),
    expect_refused(
        "unknown signer", FIRST + "no investigator has the key", sign_with("stranger", status=None)
    ),
    expect_accepted("two signers", sign_with_several("bob", "alice"), "alice", "bob"),
    expect_accepted("one signer twice", sign_with_several("alice", "alice")),
    expect_accepted(
        "two signers, one twice", sign_with_several("bob", "alice", "bob"), "alice", "bob"
    ),
    expect_refused(
        "signed issuer of another key", OTHER_TEXT, sign_with(then=change_fingerprint("bob"))
    ),
    expect_refused(
        "key dated in the future",
        FIRST + "the key that made the signature is dated in the future",
        sign_by_future_key,
    ),
    expect_refused(
        "good and disabled signer",
        "pgpsignatures[1]: the investigator 'bob' (2) is not active",
        lambda case: (
            case.add_investigator(case.keys.bob, "disabled"),
            sign_with_several("alice", "bob")(case),
        )[1],
    ),
    expect_refused(
        "JSON body that is not UTF-8",
        "is not UTF-8",
        replace_in_bytes(b"Find", b"\xc1\x86ind", JSON),
    ),
    expect_refused(
        "JSON body with half a surrogate pair",
        "name contains half",
        replace_in_bytes(b"Find", b"\\ud800", JSON),
    ),
    expect_refused(
        "JSON body with a byte order mark",
        "is not JSON",
        replace_in_bytes(b'{"name"', b'\xef\xbb\xbf{"name"', JSON),
    ),
    expect_refused(
        "JSON body with NaN",
        "NaN, which is not JSON",
        replace_in_bytes(b'"zero": 0', b'"zero": NaN', JSON),
    ),
    expect_refused(
        "JSON body with a member twice",
        "'name' twice",
        replace_in_bytes(b'"name"', b'"name": "x", "name"', JSON),
    ),
    expect_accepted("JSON body", replace_in_bytes(b"Find", b"\\u0046ind", JSON)),
    expect_accepted(
        "the first and the last second",
        edit_before_signing(
            validfrom="0001-01-01T00:00:00Z", expireafter="9999-12-31T23:59:59.999999999Z"
        ),
        in_spool='"expireafter":"9999-12-31T23:59:59.999999999Z"',
    ),
    expect_refused(
        "before the first second", TIME, edit_after_signing(validfrom="0001-01-01T00:00:00+01:00")
    ),
    expect_refused(
        "after the last second",
        "expireafter must be an RFC 3339 date",
        edit_after_signing(expireafter="9999-12-31T23:59:59-01:00"),
    ),
    expect_accepted(
        "64 levels of arrays",
        edit_before_signing(operations=[{"module": "x", "parameters": nest_arrays(64)}]),
    ),
    expect_refused(
        "65 levels of arrays",
        "operations[0].parameters is nested deeper than 64 levels",
        edit_after_signing(operations=[{"module": "x", "parameters": nest_arrays(65)}]),
    ),
    expect_accepted(
        "line ends and control characters",
        edit_before_signing(name="a\nb\x1b\x7f", target="'\u2028'"),
        in_spool="a\\nb\\u001b\x7f",
    ),
    expect_accepted(
        "SQL in the name and target",
        edit_before_signing(
            name="'; drop table actions; --", target="1=1; drop table agents; --%s%%"
        ),
        in_spool="drop table",
    ),
    expect_refused("changed name", OTHER_TEXT, edit_after_signing(name="Find the backdoors")),
    expect_refused("changed target", OTHER_TEXT, edit_after_signing(target="agents.name like '%'")),
    expect_refused(
        "changed validfrom", OTHER_TEXT, edit_after_signing(validfrom="2026-01-02T03:04:06Z")
    ),
    expect_refused(
        "changed expireafter", OTHER_TEXT, edit_after_signing(expireafter="2099-01-02T03:04:06Z")
    ),
    expect_refused(
        "reordered operations",
        OTHER_TEXT,
        edit_after_signing(operations=make_action()["operations"][::-1]),
    ),
    expect_refused(
        "added operation",
        OTHER_TEXT,
        edit_after_signing(
            operations=make_action()["operations"] + [{"module": "x", "parameters": None}]
        ),
    ),
    expect_refused(
        "removed operation",
        OTHER_TEXT,
        edit_after_signing(operations=make_action()["operations"][:1]),
    ),
    *[
        expect_refused(
            f"member {name!a} added to an operation",
            f"operations[0] has an unknown member {ascii(name)[1:-1]}",
            replace_in_text('"path": "/etc"}', f'"path": "/etc"}}, "{name}": "exec"'),
        )
        for name in ("Module", "MODULE", "PARAMETERS", "parameter\u017f", "module\u200b", "extra")
    ],
    *[
        expect_refused(
            f"member {name!a} added to the action",
            f"the action has an unknown member {ascii(name)[1:-1]}",
            edit_after_signing(**{name: "true"}),
        )
        for name in ("TARGET", "Operations", "operation\u017f", "expireAfter", "extra")
    ],
    expect_refused(
        "is_compressed added",
        OTHER_TEXT,
        replace_in_text('"path": "/etc"}', '"path": "/etc"}, "is_compressed": true'),
    ),
    expect_refused(
        "want_compressed added",
        OTHER_TEXT,
        replace_in_text('"path": "/etc"}', '"path": "/etc"}, "want_compressed": true'),
    ),
    expect_accepted(
        "is_compressed added as false",
        replace_in_text('"path": "/etc"}', '"path": "/etc"}, "is_compressed": false'),
        in_spool='"path":"/etc","zero":0}}',
    ),
    expect_refused(
        "member twice",
        "action holds 'name' twice in one object",
        replace_in_text('"name": ', '"name": "x", "name": '),
    ),
    expect_refused(
        "member twice, once escaped",
        "action holds 'name' twice in one object",
        replace_in_text('"name": ', '"\\u006eame": "x", "name": '),
    ),
    expect_refused(
        "member twice in an operation",
        "action holds 'path' twice in one object",
        replace_in_text('"path": ', '"path": "x", "path": '),
    ),
    expect_refused(
        "number 2^53+1",
        f"operations[0].parameters contains {BIG + 1}, which float64",
        replace_in_text(
            f'"number": {BIG},',
            f'"number": {BIG + 1},',
            operations=[{"module": "x", "parameters": {"number": BIG, "x": 0}}],
        ),
    ),
    *[
        expect_accepted(
            f"number {form} for 1",
            replace_in_text('"number": 1,', f'"number": {form},'),
            in_spool='"number":1,',
        )
        for form in ("1.0", "1e0", "100e-2")
    ],
    expect_refused("number -0 for 0", OTHER_TEXT, replace_in_text('"zero": 0,', '"zero": -0,')),
    expect_accepted(
        "number 1e20",
        edit_before_signing(operations=[{"module": "x", "parameters": 10**20}]),
        in_spool='"parameters":100000000000000000000',
    ),
    expect_refused(
        "number 1e400",
        "action holds 1e400, which is too large for float64",
        replace_in_text('"zero": 0,', '"zero": 1e400,'),
    ),
    expect_refused(
        "number -1e400",
        "action holds -1e400, which is too large for float64",
        replace_in_text('"zero": 0,', '"zero": -1e400,'),
    ),
    expect_refused(
        "number 1e999999999",
        "action holds 1e999999999",
        replace_in_text('"zero": 0,', '"zero": 1e999999999,'),
    ),
    *[
        expect_refused(
            f"number {word}",
            f"action holds {word}, which is not JSON",
            replace_in_text('"zero": 0,', f'"zero": {word},'),
        )
        for word in ("NaN", "Infinity", "-Infinity")
    ],
    expect_refused(
        "number of 5,000 digits",
        "action holds a number of more than 400 digits",
        replace_in_text('"zero": 0,', f'"zero": {"1" * 5000},'),
    ),
    expect_refused(
        "500 nested arrays",
        "nested",
        replace_in_text('"zero": 0,', f'"zero": {"[" * 500 + "]" * 500},'),
    ),
    expect_refused(
        "50,000 nested arrays",
        "nested",
        replace_in_text('"zero": 0,', f'"zero": {"[" * 50_000 + "]" * 50_000},'),
    ),
    expect_refused(
        "half a surrogate pair in the name",
        "name contains half a surrogate pair",
        replace_in_text("Find the", "Find \\ud800 the"),
    ),
    expect_refused(
        "half a surrogate pair in an operation",
        "operations[0].parameters contains half a surrogate pair",
        replace_in_text("/etc", "/\\udc00etc"),
    ),
    expect_refused(
        "half a surrogate pair in a member's name",
        "contains half a surrogate pair",
        replace_in_text('"zero"', '"\\udc00"'),
    ),
    expect_refused(
        "half a surrogate pair in the description",
        "description contains half a surrogate pair",
        replace_in_text('"Alice"', '"\\udc00"'),
    ),
    expect_refused(
        "NUL in the name",
        "name contains a NUL character",
        replace_in_text("Find the", "Find \\u0000 the"),
    ),
    expect_refused(
        "NUL in an operation",
        "operations[0].parameters contains a NUL character",
        replace_in_text("/etc", "/\\u0000etc"),
    ),
    expect_refused(
        "NUL in the text", "action contains a NUL character", replace_in_bytes(b"Find", b"Fi\0nd")
    ),
    expect_refused(
        "control character",
        "action is not JSON: Invalid control character",
        replace_in_text("Find the", "Find \x01 the"),
    ),
    expect_refused(
        "overlong UTF-8", "action is not UTF-8", replace_in_bytes(b"Find", b"\xc1\x86ind")
    ),
    expect_refused(
        "surrogate in UTF-8", "action is not UTF-8", replace_in_bytes(b"Find", b"\xed\xa0\x80ind")
    ),
    expect_refused(
        "byte order mark",
        "action is not JSON: ",
        replace_in_bytes(b'{"name"', b'\xef\xbb\xbf{"name"'),
    ),
    *[
        expect_refused(
            f"separator {separator!r} in the {field}, {form} text",
            f"{field} contains the separator that ends it in the signed text",
            edit_before_signing(form=form, **{field: f"x{separator}x"}),
        )
        for form, field, separator in (
            ("unix", "name", ";target="),
            ("unix", "target", ";validfrom="),
            ("gotime", "name", "; target="),
            ("gotime", "target", "; validfrom="),
        )
    ],
    expect_accepted(
        "separator of the other text", edit_before_signing(form="gotime", name="x;target=x")
    ),
    *[
        expect_refused(f"validfrom {time!a}", TIME, edit_after_signing(validfrom=time))
        for time in (
            "2026-01-02t03:04:05Z",
            "2026-01-02T03:04:05z",
            "2026-01-02T03:04:05,5Z",
            "2026-01-02T3:04:05Z",
            "2026-01-02T03:04:05.1234567890Z",
            "2026-01-02T03:04:05+24:00",
            "2026-01-02T03:04:60Z",
            "0000-01-02T03:04:05Z",
            "10000-01-02T03:04:05Z",
            "٢٠٢٦-01-02T03:04:05Z",
            "20260102T030405Z",
            "2026-01-02T03:04:05-00:00",
            "2026-01-02T03:04:05",
            "2026-01-02 03:04:05Z",
            "2026-02-30T03:04:05Z",
            "2026-01-02T03:04:05Z\n",
            "2026-01-02T24:00:00Z",
            "2026-W01-1T03:04:05Z",
            "now",
            "",
            5,
            None,
            "2026-01-02T03:04:05.Z",
        )
    ],
    expect_refused(
        "name in another Unicode normal form",
        OTHER_TEXT,
        lambda case: {**case.sign_action(make_action(name="Caf\u00e9")), "name": "Cafe\u0301"},
    ),
    expect_refused(
        "look-alike character in the name",
        OTHER_TEXT,
        edit_after_signing(name="Find the b\u0430ckdoor"),
    ),
    expect_refused("blank name", "name must not be empty", edit_after_signing(name=" \t")),
    expect_refused("blank target", "target must not be empty", edit_after_signing(target="\u2003")),
    expect_refused(
        "name of 2,049 characters",
        "name must have at most 2048 characters",
        edit_after_signing(name="x" * 2049),
    ),
    expect_refused(
        "syntax version 1", "syntaxversion must be 2", edit_after_signing(syntaxversion=1)
    ),
    expect_refused(
        "syntax version as a string",
        "syntaxversion must be 2",
        edit_after_signing(syntaxversion="2"),
    ),
    expect_refused(
        "syntax version as a float",
        "syntaxversion must be 2",
        replace_in_text('"syntaxversion": 2', '"syntaxversion": 2.0'),
    ),
    expect_refused(
        "syntax version as a boolean",
        "syntaxversion must be 2",
        edit_after_signing(syntaxversion=True),
    ),
    expect_refused(
        "expiry before validity",
        "expireafter must be later than validfrom",
        edit_after_signing(expireafter="2026-01-02T03:04:05.678901234Z"),
    ),
    expect_refused(
        "already expired",
        "expireafter must be in the future",
        edit_before_signing(expireafter="2026-01-03T00:00:00Z"),
    ),
    expect_refused(
        "no operations",
        "operations must be an array of at least one operation",
        edit_after_signing(operations=[]),
    ),
    expect_refused(
        "no module",
        "operations[0].module must not be empty",
        edit_after_signing(operations=[{"module": " "}]),
    ),
    expect_refused("array for an action", "the action must be a JSON object", lambda _: "[]"),
    expect_refused("text that is not JSON", "action is not JSON", lambda _: "{"),
    expect_refused(
        "unknown member in the description",
        "description has an unknown member Author",
        edit_after_signing(description={"Author": "x"}),
    ),
    expect_refused(
        "threat level that is a number",
        "threat.level must be a string",
        edit_after_signing(threat={"level": 1}),
    ),
]


# -- the test of the table ---------------------------------------------------------------------


@pytest.fixture
def database(empty_database: TestDatabase) -> TestDatabase:
    return empty_database


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest_twisted.ensureDeferred
async def test_an_attack_stores_nothing_and_a_good_action_is_accepted(
    api: Api, database: TestDatabase, case: Case, temporary: Path, row: Row
) -> None:
    submission = row.make(case)
    if row.says:
        await assert_refused(api, submission, row.says, row.status)
        check_nothing_stored(api, database)
        check_nothing_left(temporary)
        submission = case.sign_action(make_action())
    action = await assert_accepted(api, submission)
    signers = list(row.signers or ("alice",))
    assert [investigator["name"] for investigator in action["investigators"]] == signers
    sql = "select name from signatures join investigators on id = investigatorid order by id"
    assert [name for (name,) in database.execute(sql)] == signers
    (file,) = list_spool(api)
    assert row.in_spool in file.read_text()
