"""Any action that can be signed, for property tests."""

from __future__ import annotations

from hypothesis import strategies as st

from mig.actions.submission import parse_operations, parse_signed_time
from mig.signing.canonical import Signable, encode_operations

characters = st.characters(codec="utf-8", exclude_characters="\0")
words = st.text(characters, max_size=12) | st.text(
    '<>&"\\/\n\r\t\b\f\x7f\u2028\u2029é🔐', max_size=8
)
numbers = (
    st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(2**53), 2**53)
    | st.sampled_from([0.0, -0.0, 1e-6, 9.99e-7, 1e20, 1e21, 5e-324, 1.7976931348623157e308])
)
values = st.recursive(
    st.none() | st.booleans() | numbers | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=20,
)
times = st.datetimes().map(lambda t: t.isoformat() + "Z")
modules = st.lists(st.fixed_dictionaries({"module": st.just("file"), "parameters": values}))


@st.composite
def signables(draw: st.DrawFn) -> Signable:
    parts = words | st.sampled_from([";target=", "; target=", ";validfrom=", "; validfrom=", ";"])
    text = st.lists(parts, max_size=4).map("".join)
    return Signable(
        name=draw(text),
        target=draw(text),
        validfrom=parse_signed_time("validfrom", draw(times)),
        expireafter=parse_signed_time("expireafter", draw(times)),
        operations=encode_operations(parse_operations(draw(modules.filter(bool)))),
    )
