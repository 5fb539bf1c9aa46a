from collections.abc import Iterator

class MultipartError(ValueError): ...

class MultipartSegment:
    headerlist: list[tuple[str, str]]
    name: str | None

class PushMultipartParser:
    def __init__(
        self,
        boundary: str | bytes,
        content_length: int = ...,
        max_header_size: int = ...,
        max_header_count: int = ...,
        max_segment_size: float = ...,
        max_segment_count: float = ...,
        header_charset: str = ...,
        strict: bool = ...,
    ) -> None: ...
    def __enter__(self) -> PushMultipartParser: ...
    def __exit__(self, exc_type: object, exc_val: object, exc_tb: object) -> None: ...
    def parse(self, chunk: bytes) -> Iterator[MultipartSegment | bytes | None]: ...
