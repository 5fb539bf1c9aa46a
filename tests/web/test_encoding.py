"""Compressed answers are decoded as they arrive, and show that they are whole."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from random import Random

import pytest
from backports.zstd import ZstdDecompressor
from hypothesis import given
from hypothesis import strategies as st

from mig.web.encoding import ENCODINGS, encode_whole, make_encoder
from tests.support.encodings import decode_whole

RANDOM = Random(5)
PIECES = st.lists(
    st.binary(max_size=200)
    | st.integers(1, 200_000).map(lambda size: b"agents.name='a'," * (size // 16)),
    min_size=1,
    max_size=6,
)


class Decoder:
    """A client that decodes what it gets; ``is_whole`` when it has seen the end."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._begin()

    def _begin(self) -> None:
        is_gzip = self._encoding == "gzip"
        self._decoder = zlib.decompressobj(zlib.MAX_WBITS | 16) if is_gzip else ZstdDecompressor()

    @property
    def is_whole(self) -> bool:
        return self._decoder.eof

    def decode(self, data: bytes) -> bytes:
        if not data:
            return b""
        if self._decoder.eof:  # another frame
            assert self._encoding == "zstd", "gzip has one member"
            self._begin()
        found = self._decoder.decompress(data)
        rest = self._decoder.unused_data
        return found + self.decode(rest) if rest else found


@given(encoding=st.sampled_from(ENCODINGS), pieces=PIECES, releases=st.sets(st.integers(0, 5)))
def test_a_client_has_each_piece_as_soon_as_it_arrives(
    encoding: str, pieces: list[bytes], releases: set[int]
) -> None:
    """This also holds after a pause in which the service keeps nothing of the stream."""
    encoder, decoder = make_encoder(encoding), Decoder(encoding)
    whole = []
    for number, piece in enumerate(pieces):
        encoded = encoder.encode(piece)
        whole.append(encoded)
        assert decoder.decode(encoded) == piece
        if number in releases:
            whole.append(encoder.release_memory())
            assert decoder.decode(whole[-1]) == b""
    whole.append(encoder.finish())
    assert decoder.decode(whole[-1]) == b"" and decoder.is_whole
    assert decode_whole(b"".join(whole), encoding) == b"".join(pieces)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_cut_answer_has_no_end(encoding: str) -> None:
    text = bytes(RANDOM.choices(b"abc\n", k=20_000))
    encoder = make_encoder(encoding)
    encoded = encoder.encode(text[:10_000]) + encoder.encode(text[10_000:]) + encoder.finish()
    for size in RANDOM.sample(range(len(encoded)), 200):
        decoder = Decoder(encoding)
        assert text.startswith(decoder.decode(encoded[:size]))
        assert not decoder.is_whole


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_any_data_is_decoded_to_the_same(encoding: str) -> None:
    for text in samples():
        assert decode_whole(encode_whole(text, encoding), encoding) == text


def samples() -> Sequence[bytes]:
    return [b"", b"a", b"\0" * 3_000_000, RANDOM.randbytes(3_000_000), b"abc" * 700_000]
