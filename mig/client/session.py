"""Requests to the service: with credentials, and again when that is safe and may help."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from io import BytesIO
from typing import Any, Final, NoReturn, TypeAlias, TypeVar, cast
from urllib.parse import urlsplit

from hyperlink import EncodedURL
from OpenSSL.SSL import Error as TLSError
from service_identity import VerificationError
from treq.client import HTTPClient
from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import (
    ConnectError,
    ConnectionClosed,
    DNSLookupError,
)
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.web.client import FileBodyProducer
from twisted.web.error import SchemeNotSupported
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from mig.client.body import Response
from mig.client.credentials import Credentials
from mig.client.errors import (
    ConnectionFailedError,
    IncompleteResponseError,
    InvalidResponseError,
    MIGClientError,
    RequestError,
    make_request_error,
)
from mig.client.reading import CollectionReader
from mig.hypermedia.urls import encode_query_string

MAX_RETRIES: Final = 5
MAX_RETRY_SECONDS: Final = 120.0
"""How long a service may ask to wait; when it asks for more, its error is raised at once."""
_FIRST_BACKOFF_SECONDS: Final = 0.5
_MAX_ERROR_BYTES: Final = 1_048_576

_RETRIED_STATUSES: Final = (429, 502, 503, 504)
_REFUSED: Final = 429  # nothing was done, so any request may be sent again
_UNAUTHORIZED: Final = 401
_VISIBLE: Final = re.compile(r"[^\s\x00-\x1f\x7f]*")
_MEDIA_TYPES: Final = "application/vnd.collection+json, application/json;q=0.9"
# treq would decode what has this header, and its decoder does not notice that a stream was cut
_CONTENT_ENCODING: Final = b"Content-Encoding"
_KEPT_ENCODING: Final = b"X-Kept-Content-Encoding"

File: TypeAlias = tuple[str, str, bytes]
"""A file of a form: its name, its media type, and its content."""

Answer = TypeVar("Answer")

RetryObserver: TypeAlias = Callable[[MIGClientError, float], object]
"""A function that is told why a request is sent again, and after how many seconds."""


class Session:
    """Requests below one URL."""

    def __init__(
        self,
        reactor: IReactorTime,
        agent: IAgent,
        base: str,
        credentials: Credentials,
        *,
        wall_clock: Callable[[], float],
        stall_seconds: float,
        on_retry: RetryObserver | None = None,
    ) -> None:
        self._on_retry = on_retry
        self._reactor = reactor
        self._client = HTTPClient(_EncodingKeeper(agent))
        self._base = base
        self._credentials = credentials
        self._wall_clock = wall_clock
        self._stall_seconds = stall_seconds

    async def get(self, path: str, query: Sequence[tuple[str, str]] = ()) -> Response:
        """Return the successful answer to a GET request.

        :raises MIGClientError: when there is no such answer, also after several attempts.
        """
        url = path + (f"?{encode_query_string(query)}" if query else "")
        return await self._send("GET", url, {}, {}, is_idempotent=True)

    async def get_page(self, path: str, url: str) -> Response:
        """Return the page of a list that a link of another page leads to.

        :raises MIGClientError: as :meth:`get` does.
        """
        # only its query: credentials go to no other host, and the public URL may be another one
        try:
            query = urlsplit(url).query
            _check_visible(query)
        except ValueError as reason:
            message = f"the link to the next page is not a URL: {reason}"
            raise InvalidResponseError(message) from None
        return await self.get(f"{path}?{query}")

    async def post(
        self,
        path: str,
        fields: Mapping[str, str],
        files: Mapping[str, File] | None = None,
        *,
        is_idempotent: bool,
    ) -> Response:
        """Return the successful answer to a form.

        :param is_idempotent: whether posting it twice does the same as posting it once.
        :raises MIGClientError: when there is no such answer.
        """
        return await self._send("POST", path, fields, files or {}, is_idempotent=is_idempotent)

    async def _send(
        self,
        method: str,
        url: str,
        fields: Mapping[str, str],
        files: Mapping[str, File],
        *,
        is_idempotent: bool,
    ) -> Response:
        can_renew = self._credentials.can_renew
        retries = 0
        while True:
            wait = 0.0
            try:
                response = await self._send_once(method, url, fields, files)
                if 200 <= response.status < 300:
                    return response
                wait = self._read_retry_after(response)
                error = await _read_error(response)
                can_retry = error.status == _REFUSED or (
                    is_idempotent and error.status in _RETRIED_STATUSES
                )
                if error.status == _UNAUTHORIZED and can_renew:
                    can_renew = False
                    self._credentials.forget()
                    continue
                failed: RequestError | ConnectionFailedError = error
            except _NotSentError as reason:
                failed, can_retry = reason, reason.is_temporary
            except ConnectionFailedError as reason:
                failed, can_retry = reason, is_idempotent and reason.is_temporary
            if not can_retry or retries == MAX_RETRIES or wait > MAX_RETRY_SECONDS:
                raise failed
            # some time more or less, so that clients do not come back all at once
            backoff = _FIRST_BACKOFF_SECONDS * 2**retries * random.uniform(0.5, 1.5)  # noqa: S311
            wait = max(wait, backoff)
            if self._on_retry:
                self._on_retry(failed, wait)
            await deferLater(self._reactor, wait)
            retries += 1

    async def _send_once(
        self, method: str, url: str, fields: Mapping[str, str], files: Mapping[str, File]
    ) -> Response:
        headers = Headers({"Accept": [_MEDIA_TYPES]})
        for name, value in (await self._credentials.make_headers()).items():
            headers.setRawHeaders(name, [value])
        sent = self._client.request(
            method,
            self._parse_url(url),
            headers=headers,
            data=dict(fields) or None,
            files={name: _make_part(file) for name, file in files.items()} or None,
            allow_redirects=False,  # credentials go to no other URL
            unbuffered=True,
            reactor=cast(Any, self._reactor),  # for a timeout of treq, which is not used
        )
        try:
            answer = await _pass_on(sent).addTimeout(
                self._stall_seconds, self._reactor, onTimeoutCancel=_raise_timeout
            )
        except defer.TimeoutError:
            message = f"there was no answer for {self._stall_seconds:g} seconds"
            raise ConnectionFailedError(message) from None
        except (ConnectError, DNSLookupError) as reason:
            message = f"no connection to {self._base}: {reason}".rstrip(".")
            raise _NotSentError(message) from reason
        except SchemeNotSupported as reason:
            raise ConnectionFailedError(str(reason), is_temporary=False) from reason
        except Exception as reason:
            # Twisted exports only some of the classes of failed requests; all of them have reasons
            if not (isinstance(reason, ConnectionClosed) or hasattr(reason, "reasons")):
                raise
            failures: Sequence[Failure] = getattr(reason, "reasons", None) or [Failure(reason)]
            raise _describe_failures(self._base, failures) from reason
        kept = answer.headers.getRawHeaders(_KEPT_ENCODING) or [b""]
        encoding = kept[-1].decode("latin-1").lower()
        return Response(answer, encoding, self._reactor, self._stall_seconds)

    def _parse_url(self, url: str) -> EncodedURL:
        try:
            _check_visible(self._base)
            parsed = _URL.from_text(self._base + url)
            parsed.to_uri()
        except ValueError as reason:
            message = f"{self._base!a} is not a URL: {reason}"
            raise ConnectionFailedError(message, is_temporary=False) from reason
        return parsed

    def _read_retry_after(self, response: Response) -> float:
        """Return the seconds in the header Retry-After, which may also be a date."""
        text = response.get_header("retry-after").strip()
        if text.isdecimal():
            return float(text)
        try:
            return max(0.0, parsedate_to_datetime(text).timestamp() - self._wall_clock())
        except (ValueError, OverflowError):
            return 0.0


class _URL(EncodedURL):
    """A URL that stays as it is when it is ASCII.

    hyperlink takes every host for a name of IDNA, so it refuses ``::1`` and ``mig_api``.
    """

    def to_uri(self) -> EncodedURL:
        """Return the URL in ASCII."""
        return self if self.to_text().isascii() else super().to_uri()


def _check_visible(url: str) -> None:
    """Refuse what Twisted does not send; its own error is not one of this library.

    :raises ValueError: when the URL contains a space or a control character.
    """
    if not _VISIBLE.fullmatch(url):
        raise ValueError("it contains a space or a control character")


class _NotSentError(ConnectionFailedError):
    """The request did not reach the service, so any request may be sent again."""


def _make_part(file: File) -> tuple[str, str, IBodyProducer]:
    name, media_type, content = file
    return name, media_type, FileBodyProducer(BytesIO(content))


def _pass_on(sent: Deferred[Answer]) -> Deferred[Answer]:
    """Return a Deferred for an answer, which fails with ``CancelledError`` when it is cancelled.

    Twisted's own fails as it would without the network then, and such a request is sent again.
    """

    def cancel(answer: Deferred[Answer]) -> None:
        answer.errback(CancelledError())
        sent.cancel()

    def deliver(result: Answer | Failure) -> None:
        if answer.called:
            return
        if isinstance(result, Failure):
            answer.errback(result)
        else:
            answer.callback(result)

    answer: Deferred[Answer] = Deferred(cancel)
    sent.addBoth(deliver)
    return answer


def _raise_timeout(_result: object, seconds: float) -> NoReturn:
    # whatever a cancelled request has failed with
    raise defer.TimeoutError(seconds, "Deferred")


def _describe_failures(base: str, failures: Sequence[Failure]) -> ConnectionFailedError:
    is_untrusted = any(failure.check(TLSError, VerificationError) for failure in failures)
    what = "; ".join(failure.getErrorMessage() for failure in failures)
    return ConnectionFailedError(f"no answer from {base}: {what}", is_temporary=not is_untrusted)


async def _read_error(response: Response) -> RequestError:
    """Return the error that an answer is."""
    reader = CollectionReader()
    text = b""
    try:
        async for chunk in response.read_chunks():
            text += chunk
            if len(text) > _MAX_ERROR_BYTES:
                break
        reader.feed(text)
    except (IncompleteResponseError, InvalidResponseError):
        pass  # a proxy answers with a document of its own; then the status says what is known
    finally:
        response.abort()
    error = reader.members.get("error")
    members = error if isinstance(error, dict) else {}
    message = members.get("message") or text[:200].decode(errors="replace").strip()
    operation = members.get("code") or response.get_header("x-request-id")
    return make_request_error(response.status, str(message), str(operation))


@implementer(IAgent)
class _EncodingKeeper:
    """An agent that hides the encoding of a body from treq."""

    def __init__(self, agent: IAgent) -> None:
        self._agent = agent

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,  # noqa: N803 - a name of Twisted
    ) -> Deferred[IResponse]:
        """Send a request."""
        sent: Deferred[IResponse] = self._agent.request(method, uri, headers, bodyProducer)
        return sent.addCallback(_keep_encoding)


def _keep_encoding(response: IResponse) -> IResponse:
    headers = response.headers
    headers.setRawHeaders(_KEPT_ENCODING, headers.getRawHeaders(_CONTENT_ENCODING) or [b""])
    headers.removeHeader(_CONTENT_ENCODING)
    return response
