"""Attacks on POST /action/create/, through a real socket, with the real gpg and database.

Rows named S are about signatures and keys, rows named C about what is signed and how it is written.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote_plus

import pytest
import pytest_twisted

from mig.openpgp.packet import packets
from tests.support.api import Api
from tests.support.documents import Json
from tests.support.keys import (
    FAR_AHEAD,
    LONG_AGO,
    SOON_AFTER,
    Key,
    framed,
    octets,
    one_line,
    public_armor,
    with_issuer,
    with_version,
    without_back_signature,
)
from tests.support.postgres import TestDatabase
from tests.support.submissions import (
    FORM,
    JSON,
    Case,
    Raw,
    accepted_as,
    an_action,
    check_nothing_left,
    check_nothing_stored,
    refused_with,
    spooled,
    text_of,
)

Sign = Callable[[str, "Case"], str]


# -- how submissions are made ------------------------------------------------------------------


def signed(
    name: str = "alice",
    *options: str,
    form: str = "unix",
    time: str = "",
    status: str | None = "active",
    then: Sign = lambda signature, case: signature,
) -> Callable[[Case], Json]:
    """The action with one signature, by the key of this name, changed by *then*."""

    def make(case: Case) -> Json:
        key = getattr(case.keys, name)
        if status is not None:
            case.add(key, status)
        action = an_action()
        signature = case.sign(action, key, *options, form=form, time=time)
        return {**action, "pgpsignatures": [then(signature, case)]}

    return make


def around(head: bytes, tail: bytes = b"") -> Sign:
    """Packets before and after the signature's."""
    return lambda signature, case: one_line(head + octets(signature) + tail)


def beside(name: str, *, first: bool = False) -> Sign:
    """Another signature in the same line: one over another text when *name* is ``bad``."""

    def then(signature: str, case: Case) -> str:
        text = text_of(an_action())
        other = (
            case.keys.sign(case.keys.alice, b"another text")
            if name == "bad"
            else case.keys.sign(getattr(case.keys, name), text)
        )
        both = [octets(signature), octets(other)]
        return one_line(b"".join(reversed(both) if first else both))

    return then


def made(*options: str, plain: bool = False) -> Callable[[Case], Json]:
    """A signature that is a whole message, with or without its frame lines."""

    def make(case: Case) -> Json:
        text = case.keys.made_by(case.keys.alice, text_of(an_action()), *options)
        signature = text.decode() if plain else one_line(text)
        return {**an_action(), "pgpsignatures": [signature]}

    return make


def over(text: bytes) -> Callable[[Case], Json]:
    """Alice's signature over another text."""
    return lambda case: {
        **an_action(),
        "pgpsignatures": [case.keys.sign(case.keys.alice, text)],
    }


def edited(**members: Json) -> Callable[[Case], Json]:
    """Signed first, and then changed."""
    return lambda case: {**case.good(an_action()), **members}


def as_version(version: int) -> Sign:
    """The signature, changed into one of another version of OpenPGP's."""
    return lambda signature, _: with_version(signature, version)


def signed_as(*, form: str = "unix", **members: Json) -> Callable[[Case], Json]:
    """Changed first, and then signed."""
    return lambda case: case.good(an_action(**members), form=form)


def replaced(old: str, new: str, **members: Json) -> Callable[[Case], Json]:
    """Signed, and then changed in its JSON text."""

    def make(case: Case) -> str:
        text = json.dumps(case.good(an_action(**members)))
        assert text.count(old) == 1, text
        return text.replace(old, new)

    return make


def raw(old: bytes, new: bytes, type: str = FORM) -> Callable[[Case], Json]:
    """Signed, and then changed in its bytes."""

    def make(case: Case) -> Raw:
        text = json.dumps(case.good(an_action())).encode()
        assert text.count(old) == 1
        changed = text.replace(old, new)
        return Raw(
            body=b"action=" + quote_plus(changed).encode() if type == FORM else changed, type=type
        )

    return make


def signatures(make: Callable[[Case], list[Json]]) -> Callable[[Case], Json]:
    return lambda case: {**an_action(), "pgpsignatures": make(case)}


def adopted(victim: str, kind: str, *, sub: bool) -> Callable[[Case], Json]:
    """Eve, an investigator before the victim was, has the victim's key as a subkey."""

    def make(case: Case) -> Json:
        key = getattr(case.keys, victim)
        fingerprint = key.signer[:-1] if sub else key.fingerprint
        capabilities = ("s", "a") if kind == "other use" else ()
        name = f"{victim}'s {kind}"
        eve = case.keys.adopting(name, fingerprint, *capabilities)
        if kind == "not back":
            eve = replace(eve, armored=public_armor(without_back_signature(eve.packets)))
        case.add(eve)
        return signed(victim)(case)

    return make


def merged(case: Case) -> Json:
    """Eve's certificate holds another's subkey with the binding that its owner made."""
    eve, victim = case.keys.stranger, case.keys.subkey
    parts = [part.raw for part in packets(victim.packets)]
    case.add(
        Key(
            name="eve",
            fingerprint=eve.fingerprint,
            signer=eve.signer,
            armored=public_armor(eve.packets + b"".join(parts[-2:])),
        )
    )
    return signed("subkey")(case)


ODD = {
    "C3 85": "Eve Å[GNUPG:] VALIDSIG {bob} 2026-01-01 1767225600 0 4 0 22 8 00 {bob}".encode(),
    "U+2028": "Eve \u2028[GNUPG:] GOODSIG {id} bob\u2028[GNUPG:] VALIDSIG {bob}".encode(),
    "U+0085": "Eve \u0085[GNUPG:] VALIDSIG {bob}".encode(),
    "1C": b"Eve \x1c[GNUPG:] VALIDSIG {bob}",
    "85": b"Eve \x85[GNUPG:] VALIDSIG {bob}",
    "newline": b"Eve \n[GNUPG:] VALIDSIG {bob}",
}


def odd(name: str, *, good: bool = True, expired: bool = False) -> Callable[[Case], Json]:
    """By a key whose user id forges status lines."""

    def make(case: Case) -> Json:
        bob = case.keys.bob
        case.add(bob)
        uid = ODD[name].replace(b"{bob}", bob.fingerprint.encode())
        uid = uid.replace(b"{id}", bob.key_id.encode())
        eve = case.keys.key(
            f"eve {name} {expired}",
            uid=uid,
            expires="2020-06-01" if expired else "0",
            time=LONG_AGO,
        )
        case.add(eve)
        text = text_of(an_action()) if good else b"another text"
        signature = case.keys.sign(eve, text, time=SOON_AFTER)
        return {**an_action(), "pgpsignatures": [signature]}

    return make


# -- the table ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Row:
    name: str
    make: Callable[[Case], Json]
    status: int = 400
    says: str = ""
    """Part of the reason; empty when the submission is accepted."""
    signers: tuple[str, ...] = ()
    """The names of those that have signed, when it is accepted."""
    in_spool: str = ""
    """Part of the file that is handed over."""


def refused(name: str, says: str, make: Callable[[Case], Json], status: int = 400) -> Row:
    return Row(name=name, says=says, make=make, status=status)


def accepted(name: str, make: Callable[[Case], Json], *signers: str, in_spool: str = "") -> Row:
    return Row(name=name, make=make, signers=signers or ("alice",), in_spool=in_spool)


def several(*names: str) -> Callable[[Case], Json]:
    """Signed by each of them, in both texts by who is named twice."""

    def make(case: Case) -> Json:
        action = an_action()
        given = []
        for n, name in enumerate(names):
            key = getattr(case.keys, name)
            case.add(key)
            form = "gotime" if name in names[:n] else "unix"
            given.append(case.sign(action, key, form=form))
        return {**action, "pgpsignatures": given}

    return make


def with_fingerprint(name: str) -> Sign:
    """The signed name of the key that made it, changed to another's."""

    def then(signature: str, case: Case) -> str:
        key = getattr(case.keys, name)
        case.add(key)
        data = octets(signature)
        old = bytes.fromhex(case.keys.alice.fingerprint)
        assert data.count(old) == 1
        return one_line(data.replace(old, bytes.fromhex(key.fingerprint)))

    return then


def by_future_key(case: Case) -> Json:
    key = case.keys.key("future", time=FAR_AHEAD)
    case.add(key)
    return {**an_action(), "pgpsignatures": [case.sign(an_action(), key, time=FAR_AHEAD)]}


def nested(levels: int) -> Json:
    value: Json = 1
    for _ in range(levels):
        value = [value]
    return value


OTHER_TEXT = "pgpsignatures[0]: it is no signature over this action, in neither of its two texts"
FIRST = "pgpsignatures[0]: "
TIME = "validfrom must be an RFC 3339 date, for example"
BIG = 2**53
MARKER = framed(10, b"PGP")
TRUST = framed(12, b"\1\6")

ROWS = [
    accepted("unix text", signed()),
    accepted("gotime text", signed(form="gotime")),
    accepted("RSA", signed("rsa"), "rsa"),
    accepted("a subkey", signed("subkey"), "subkey"),
    *[accepted(f"S1 {uid}", odd(uid), f"eve {uid} False") for uid in ODD],
    *[refused(f"S2 bad, {uid}", OTHER_TEXT, odd(uid, good=False)) for uid in ODD],
    *[
        refused(
            f"S2 expired, {uid}", FIRST + "the signer's key has expired", odd(uid, expired=True)
        )
        for uid in ODD
    ],
    refused("S3 another text", OTHER_TEXT, over(b"another text")),
    refused("S3 a token", OTHER_TEXT, over(b"1;2026-01-02T03:04:05Z;4711\n")),
    refused("S3 a line end", OTHER_TEXT, over(text_of(an_action()) + b"\n")),
    refused("S4 SHA-1", FIRST + "SHA-1 is weak", signed("rsa", "--digest-algo", "SHA1")),
    refused("S4 MD5", FIRST + "MD5 is weak", signed("rsa", "--digest-algo", "MD5")),
    refused("S4 RIPEMD", FIRST + "RIPEMD-160 is weak", signed("rsa", "--digest-algo", "RIPEMD160")),
    accepted("S4 SHA-224", signed("rsa", "--digest-algo", "SHA224"), "rsa"),
    accepted("S4 SHA-512", signed("rsa", "--digest-algo", "SHA512"), "rsa"),
    refused("S5 text mode", FIRST + "the signature's class is 0x01", signed("rsa", "--textmode")),
    refused(
        "S6 expired", FIRST + "the signer's key has expired", signed("expired", time=SOON_AFTER)
    ),
    refused("S6 revoked", FIRST + "the signer's key is revoked", signed("revoked")),
    refused(
        "S6 expired subkey",
        FIRST + "the subkey that signed has expired",
        signed("expired_subkey", time=SOON_AFTER),
    ),
    refused(
        "S6 revoked subkey",
        FIRST + "the subkey that signed is revoked",
        signed("revoked_subkey"),
    ),
    refused(
        "S7 expired",
        FIRST + "the signature has expired",
        signed("bob", "--default-sig-expire", "1d", time=SOON_AFTER),
    ),
    refused("S7 future", FIRST + "the signature is dated in the future", signed(time=FAR_AHEAD)),
    refused(
        "S7 before its key",
        FIRST + "the signature is dated before the key that made it",
        signed(time=LONG_AGO),
    ),
    refused("S8 good and bad", FIRST + "the signature holds 2", signed(then=beside("bad"))),
    refused(
        "S8 bad and good", FIRST + "the signature holds 2", signed(then=beside("bad", first=True))
    ),
    refused(
        "S8 unknown and good",
        FIRST + "the signature holds 2",
        signed(then=beside("stranger", first=True)),
    ),
    refused("S8 good and good", FIRST + "the signature holds 2", signed(then=beside("alice"))),
    refused(
        "S9 compressed",
        FIRST + "the signature holds compressed data",
        signed(then=lambda signature, _: one_line(framed(8, b"\0" + octets(signature)))),
    ),
    refused(
        "S9 marker", FIRST + "the signature holds a packet of type 10", signed(then=around(MARKER))
    ),
    refused(
        "S9 trust", FIRST + "the signature holds a packet of type 12", signed(then=around(TRUST))
    ),
    refused(
        "S9 trust after", FIRST + "the signature holds a packet", signed(then=around(b"", TRUST))
    ),
    refused("S9 junk after", FIRST + "the data is not OpenPGP", signed(then=around(b"", b"junk"))),
    refused(
        "S9 cut",
        FIRST + "the OpenPGP data is cut short",
        signed(then=lambda s, _: one_line(octets(s)[:-1])),
    ),
    refused(
        "S9 partial",
        FIRST + "an OpenPGP packet in parts",
        signed(then=lambda s, _: one_line(b"\xc2\xe1" + octets(s)[2:])),
    ),
    refused(
        "S9 spaces", FIRST + "this is no signature", signed(then=lambda s, _: s[:40] + " " + s[40:])
    ),
    refused(
        "S9 lines", FIRST + "this is no signature", signed(then=lambda s, _: s[:64] + "\n" + s[64:])
    ),
    refused(
        "S9 checksum",
        FIRST + "the signature is damaged: its checksum",
        signed(then=lambda s, _: s[:-4] + "AAAA"),
    ),
    refused("S9 no checksum", FIRST + "this is no signature", signed(then=lambda s, _: s[:-5])),
    refused(
        "S10 clearsigned",
        FIRST + "the signature is a clearsigned text",
        made("--clear-sign", plain=True),
    ),
    refused(
        "S10 inline",
        FIRST + "the signature holds an inline-signed message",
        made("--sign", "--compress-algo", "none"),
    ),
    refused(
        "S10 compressed",
        FIRST + "an OpenPGP packet without a length is not accepted",
        made("--sign", "--compress-algo", "zip"),
    ),
    refused(
        "S10 armored",
        FIRST + "the signature is an armor with its frame lines",
        made("--detach-sign", "--armor", plain=True),
    ),
    refused(
        "S11 an unknown key and its block",
        FIRST + "no investigator has the key",
        signed("stranger", "--include-key-block", status=None),
    ),
    accepted(
        "S11 addresses",
        signed(
            "alice",
            "--sig-keyserver-url",
            "http://localhost:9/",
            "--sig-policy-url",
            "http://localhost:9/",
        ),
    ),
    refused("S12 critical", OTHER_TEXT, signed("alice", "--sig-notation", "!x@example.net=1")),
    accepted("S12 not critical", signed("alice", "--sig-notation", "x@example.net=1")),
    refused(
        "S13 10,000",
        "the request's body must be of at most 1048576 bytes here",
        signed(then=lambda s, _: one_line(octets(s) * 10_000)),
        413,
    ),
    refused(
        "S13 long",
        FIRST + "a signature of 100000 letters is too long: at most 4096",
        signatures(lambda _: ["A" * 100_000]),
    ),
    refused(
        "S13 many",
        "there may be at most 20 pgpsignatures",
        signatures(lambda _: [f"{n}" for n in range(2_000)]),
    ),
    refused("none", "pgpsignatures must be an array of signatures", signatures(lambda _: [])),
    refused("empty", FIRST + "the signature is empty", signatures(lambda _: [""])),
    refused("a number", "pgpsignatures[0] must be a string", signatures(lambda _: [1])),
    refused(
        "given twice",
        "pgpsignatures[1] is given twice",
        lambda case: {**an_action(), "pgpsignatures": [case.sign(an_action())] * 2},
    ),
    refused(
        "good and bad",
        "pgpsignatures[1]: it is no signature over this action",
        signatures(lambda case: [case.sign(an_action()), case.keys.sign(case.keys.alice, b"x")]),
    ),
    refused(
        "good and unknown",
        "pgpsignatures[1]: no investigator has the key",
        signatures(
            lambda case: [case.sign(an_action()), case.sign(an_action(), case.keys.stranger)]
        ),
    ),
    accepted("S14 zeroed", signed(then=lambda s, _: with_issuer(s, "0" * 16))),
    accepted(
        "S14 another's", signed(then=lambda s, case: with_issuer(s, case.keys.stranger.key_id))
    ),
    *[
        accepted(f"S15, S16 {victim} {kind}", adopted(victim, kind, sub=sub), victim)
        for victim, sub in (("bob", False), ("subkey", True))
        for kind in ("other use", "not back")
    ],
    *[
        refused(
            f"S16 {victim} shared",
            FIRST + "the key that made it belongs to several investigators",
            adopted(victim, "shared", sub=sub),
        )
        for victim, sub in (("bob", False), ("subkey", True))
    ],
    accepted("S16 not bound", merged, "subkey"),
    *[
        refused(
            f"S17 version {n}",
            FIRST + f"OpenPGP signatures of version {n} are not accepted: version 4",
            signed(then=as_version(n)),
        )
        for n in (2, 3, 5, 6, 99)
    ],
    refused(
        "S20 RSA 1024",
        FIRST + "the key that made the signature is too weak: it has 1024 bits",
        signed("rsa1024", "--digest-algo", "SHA256"),
    ),
    refused(
        "S20 DSA",
        FIRST + "DSA signatures are not accepted",
        signed("dsa", "--digest-algo", "SHA256"),
    ),
    refused(
        "disabled",
        FIRST + "the investigator 'bob' (2) is not active",
        signed("bob", status="disabled"),
    ),
    refused("unknown", FIRST + "no investigator has the key", signed("stranger", status=None)),
    accepted("two signers", several("bob", "alice"), "alice", "bob"),
    accepted("one signer twice", several("alice", "alice")),
    accepted("two signers, one twice", several("bob", "alice", "bob"), "alice", "bob"),
    refused("S14 signed as another's", OTHER_TEXT, signed(then=with_fingerprint("bob"))),
    refused(
        "S7 a key of the future",
        FIRST + "the key that made the signature is dated in the future",
        by_future_key,
    ),
    refused(
        "good and disabled",
        "pgpsignatures[1]: the investigator 'bob' (2) is not active",
        lambda case: (
            case.add(case.keys.bob, "disabled"),
            several("alice", "bob")(case),
        )[1],
    ),
    refused("JSON: no UTF-8", "is not UTF-8", raw(b"Find", b"\xc1\x86ind", JSON)),
    refused("JSON: half a pair", "name holds half", raw(b"Find", b"\\ud800", JSON)),
    refused("JSON: BOM", "is not JSON", raw(b'{"name"', b'\xef\xbb\xbf{"name"', JSON)),
    refused("JSON: NaN", "NaN, which is no JSON", raw(b'"zero": 0', b'"zero": NaN', JSON)),
    refused("JSON: twice", "'name' twice", raw(b'"name"', b'"name": "x", "name"', JSON)),
    accepted("JSON", raw(b"Find", b"\\u0046ind", JSON)),
    accepted(
        "the first and the last second",
        signed_as(validfrom="0001-01-01T00:00:00Z", expireafter="9999-12-31T23:59:59.999999999Z"),
        in_spool='"expireafter":"9999-12-31T23:59:59.999999999Z"',
    ),
    refused("C12 before the first", TIME, edited(validfrom="0001-01-01T00:00:00+01:00")),
    refused(
        "C12 after the last",
        "expireafter must be an RFC 3339 date",
        edited(expireafter="9999-12-31T23:59:59-01:00"),
    ),
    accepted("64 levels", signed_as(operations=[{"module": "x", "parameters": nested(64)}])),
    refused(
        "65 levels",
        "operations[0].parameters is nested deeper than 64 levels",
        edited(operations=[{"module": "x", "parameters": nested(65)}]),
    ),
    accepted(
        "lines", signed_as(name="a\nb\x1b\x7f", target="'\u2028'"), in_spool="a\\nb\\u001b\x7f"
    ),
    accepted(
        "SQL",
        signed_as(name="'; drop table actions; --", target="1=1; drop table agents; --%s%%"),
        in_spool="drop table",
    ),
    refused("C1 name", OTHER_TEXT, edited(name="Find the backdoors")),
    refused("C1 target", OTHER_TEXT, edited(target="agents.name like '%'")),
    refused("C1 validfrom", OTHER_TEXT, edited(validfrom="2026-01-02T03:04:06Z")),
    refused("C1 expireafter", OTHER_TEXT, edited(expireafter="2099-01-02T03:04:06Z")),
    refused("C1 reordered", OTHER_TEXT, edited(operations=an_action()["operations"][::-1])),
    refused(
        "C1 added",
        OTHER_TEXT,
        edited(operations=an_action()["operations"] + [{"module": "x", "parameters": None}]),
    ),
    refused("C1 dropped", OTHER_TEXT, edited(operations=an_action()["operations"][:1])),
    *[
        refused(
            f"C2 {name!a} beside",
            f"operations[0] has an unknown member {ascii(name)[1:-1]}",
            replaced('"path": "/etc"}', f'"path": "/etc"}}, "{name}": "exec"'),
        )
        for name in ("Module", "MODULE", "PARAMETERS", "parameter\u017f", "module\u200b", "extra")
    ],
    *[
        refused(
            f"C2 {name!a} in the action",
            f"the action has an unknown member {ascii(name)[1:-1]}",
            edited(**{name: "true"}),
        )
        for name in ("TARGET", "Operations", "operation\u017f", "expireAfter", "extra")
    ],
    refused(
        "C3 compressed",
        OTHER_TEXT,
        replaced('"path": "/etc"}', '"path": "/etc"}, "is_compressed": true'),
    ),
    refused(
        "C3 wanted",
        OTHER_TEXT,
        replaced('"path": "/etc"}', '"path": "/etc"}, "want_compressed": true'),
    ),
    accepted(
        "C3 not compressed",
        replaced('"path": "/etc"}', '"path": "/etc"}, "is_compressed": false'),
        in_spool='"path":"/etc","zero":0}}',
    ),
    refused(
        "C4 twice",
        "action holds 'name' twice in one object",
        replaced('"name": ', '"name": "x", "name": '),
    ),
    refused(
        "C4 escaped",
        "action holds 'name' twice in one object",
        replaced('"name": ', '"\\u006eame": "x", "name": '),
    ),
    refused(
        "C4 in an operation",
        "action holds 'path' twice in one object",
        replaced('"path": ', '"path": "x", "path": '),
    ),
    refused(
        "C5 2^53+1",
        f"operations[0].parameters holds {BIG + 1}, which float64",
        replaced(
            f'"number": {BIG},',
            f'"number": {BIG + 1},',
            operations=[{"module": "x", "parameters": {"number": BIG, "x": 0}}],
        ),
    ),
    *[
        accepted(
            f"C5 {form} for 1",
            replaced('"number": 1,', f'"number": {form},'),
            in_spool='"number":1,',
        )
        for form in ("1.0", "1e0", "100e-2")
    ],
    refused("C5 -0 for 0", OTHER_TEXT, replaced('"zero": 0,', '"zero": -0,')),
    accepted(
        "C5 1e20",
        signed_as(operations=[{"module": "x", "parameters": 10**20}]),
        in_spool='"parameters":100000000000000000000',
    ),
    refused(
        "C6 1e400", "action holds 1e400, which is beyond", replaced('"zero": 0,', '"zero": 1e400,')
    ),
    refused(
        "C6 -1e400",
        "action holds -1e400, which is beyond",
        replaced('"zero": 0,', '"zero": -1e400,'),
    ),
    refused(
        "C6 1e999999999", "action holds 1e999999999", replaced('"zero": 0,', '"zero": 1e999999999,')
    ),
    *[
        refused(
            f"C6 {word}",
            f"action holds {word}, which is no JSON",
            replaced('"zero": 0,', f'"zero": {word},'),
        )
        for word in ("NaN", "Infinity", "-Infinity")
    ],
    refused(
        "C6 5,000 digits",
        "action holds a number of more than 400 digits",
        replaced('"zero": 0,', f'"zero": {"1" * 5000},'),
    ),
    refused("deep", "nested", replaced('"zero": 0,', f'"zero": {"[" * 500 + "]" * 500},')),
    refused(
        "very deep", "nested", replaced('"zero": 0,', f'"zero": {"[" * 50_000 + "]" * 50_000},')
    ),
    refused(
        "C7 surrogate in the name",
        "name holds half a surrogate pair",
        replaced("Find the", "Find \\ud800 the"),
    ),
    refused(
        "C7 surrogate in an operation",
        "operations[0].parameters holds half a surrogate pair",
        replaced("/etc", "/\\udc00etc"),
    ),
    refused(
        "C7 surrogate in a member", "holds half a surrogate pair", replaced('"zero"', '"\\udc00"')
    ),
    refused(
        "C7 surrogate in the description",
        "description holds half a surrogate pair",
        replaced('"Alice"', '"\\udc00"'),
    ),
    refused(
        "C7 NUL in the name", "name holds a NUL character", replaced("Find the", "Find \\u0000 the")
    ),
    refused(
        "C7 NUL in an operation",
        "operations[0].parameters holds a NUL character",
        replaced("/etc", "/\\u0000etc"),
    ),
    refused("C7 NUL in the text", "action holds a NUL character", raw(b"Find", b"Fi\0nd")),
    refused(
        "C7 control character",
        "action is not JSON: Invalid control character",
        replaced("Find the", "Find \x01 the"),
    ),
    refused("C7 overlong", "action is not UTF-8", raw(b"Find", b"\xc1\x86ind")),
    refused("C7 CESU", "action is not UTF-8", raw(b"Find", b"\xed\xa0\x80ind")),
    refused("C7 BOM", "action is not JSON: ", raw(b'{"name"', b'\xef\xbb\xbf{"name"')),
    *[
        refused(
            f"C8 {separator!r} in the {field}, {form}",
            f"{field} holds the separator that ends it in the signed text",
            signed_as(form=form, **{field: f"x{separator}x"}),
        )
        for form, field, separator in (
            ("unix", "name", ";target="),
            ("unix", "target", ";validfrom="),
            ("gotime", "name", "; target="),
            ("gotime", "target", "; validfrom="),
        )
    ],
    accepted("C8 the other text's separator", signed_as(form="gotime", name="x;target=x")),
    *[
        refused(f"C12 {time!a}", TIME, edited(validfrom=time))
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
    refused(
        "C13 NFD",
        OTHER_TEXT,
        lambda case: {**case.good(an_action(name="Caf\u00e9")), "name": "Cafe\u0301"},
    ),
    refused("C13 look-alike", OTHER_TEXT, edited(name="Find the b\u0430ckdoor")),
    refused("no name", "name must not be empty", edited(name=" \t")),
    refused("no target", "target must not be empty", edited(target="\u2003")),
    refused("long", "name must have at most 2048 letters", edited(name="x" * 2049)),
    refused("syntax", "syntaxversion must be 2", edited(syntaxversion=1)),
    refused("syntax as text", "syntaxversion must be 2", edited(syntaxversion="2")),
    refused(
        "syntax as float",
        "syntaxversion must be 2",
        replaced('"syntaxversion": 2', '"syntaxversion": 2.0'),
    ),
    refused("syntax as truth", "syntaxversion must be 2", edited(syntaxversion=True)),
    refused(
        "order",
        "expireafter must be later than validfrom",
        edited(expireafter="2026-01-02T03:04:05.678901234Z"),
    ),
    refused(
        "over", "expireafter must be in the future", signed_as(expireafter="2026-01-03T00:00:00Z")
    ),
    refused(
        "no operations",
        "operations must be an array of at least one operation",
        edited(operations=[]),
    ),
    refused(
        "no module", "operations[0].module must not be empty", edited(operations=[{"module": " "}])
    ),
    refused("an array", "the action must be a JSON object", lambda _: "[]"),
    refused("no JSON", "action is not JSON", lambda _: "{"),
    refused(
        "unknown description",
        "description has an unknown member Author",
        edited(description={"Author": "x"}),
    ),
    refused("unknown threat", "threat.level must be a string", edited(threat={"level": 1})),
]


# -- the test of the table ---------------------------------------------------------------------


@pytest.fixture
def database(emptied: TestDatabase) -> TestDatabase:
    return emptied


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest_twisted.ensureDeferred
async def test_attack(
    api: Api, database: TestDatabase, case: Case, temporary: Path, row: Row
) -> None:
    submission = row.make(case)
    if row.says:
        await refused_with(api, submission, row.says, row.status)
        check_nothing_stored(api, database)
        check_nothing_left(temporary)
        submission = case.good(an_action())
    action = await accepted_as(api, submission)
    signers = list(row.signers or ("alice",))
    assert [investigator["name"] for investigator in action["investigators"]] == signers
    sql = "select name from signatures join investigators on id = investigatorid order by id"
    assert [name for (name,) in database.execute(sql)] == signers
    (file,) = spooled(api)
    assert row.in_spool in file.read_text()
