"""The checks of a request when its headers are complete, before any byte of its body."""

from __future__ import annotations

import re
from collections.abc import Awaitable
from typing import Protocol
from urllib.parse import unquote_to_bytes, urlsplit

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from mig.errors import ExpectationFailedError, ForbiddenError, InvalidInputError
from mig.tracing import name_statements
from mig.web import forms
from mig.web.body import RequestBody
from mig.web.interfaces import Caller, Router
from mig.web.pages import Pages
from mig.web.rates import RequestLimiter
from mig.web.request import Request

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})

_METHOD = re.compile(rb"[A-Z]{1,32}")
_ABSOLUTE_FORM = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_SLASHES = re.compile(rb"//+")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]{1,253})(:[0-9]{1,5})?", re.ASCII)

_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class Authenticator(Protocol):
    """A function that finds out who sent a request."""

    def __call__(self, request: Request) -> Caller | Awaitable[Caller]:
        """Return the caller, not an awaitable, whenever that is possible: it saves a Deferred.

        :raises RequestError: when the credentials are not valid.
        """


class Gate:
    """The decision whether a request is handled or refused.

    :param base: the public URL of the service.
    :param pages: decides whether an answer, also a refusal, is a page for a browser.
    """

    def __init__(
        self,
        base: str,
        router: Router,
        authenticate: Authenticator,
        limiter: RequestLimiter,
        pages: Pages | None = None,
    ) -> None:
        parts = urlsplit(base)
        self._public_host = parts.netloc.encode()
        self._public_origin = _normalize_origin(f"{parts.scheme}://{parts.netloc}")
        name = (parts.hostname or "").lower()
        self._host_names = frozenset({f"[{name}]" if ":" in name else name})
        self._router = router
        self._authenticate = authenticate
        self._limiter = limiter
        self._pages = pages

    def check_request(self, request: Request, length: int | None) -> Deferred[None] | None:
        """Set the route, the body and the caller of a request whose request line is set.

        The cheap checks come before the expensive ones: the target and Host, the route, the limits
        of the client's address, the body and its origin, the caller, the permission, the limits of
        the caller.

        :param length: of the body in bytes; ``None`` when it arrives in chunks.
        :returns: ``None`` when the request is accepted now; otherwise a Deferred that fires when
            it is accepted and fails when it is refused.
        :raises RequestError: when the request is refused now.
        """
        preparing = self._pages.prepare(request) if self._pages else None
        if preparing is not None:
            return Deferred.fromCoroutine(self._check_prepared(preparing, request, length))
        return self._check(request, length)

    async def _check_prepared(
        self, preparing: Awaitable[None], request: Request, length: int | None
    ) -> None:
        await preparing
        decision = self._check(request, length)
        if decision is not None:
            await decision

    def _check(self, request: Request, length: int | None) -> Deferred[None] | None:
        self._check_head(request, length)
        with name_statements(request.operation, request.trace):
            caller = self._authenticate(request)
            if isinstance(caller, Awaitable):
                waiting = Deferred.fromCoroutine(self._check_awaited_caller(request, caller))
                return None if _has_fired(waiting) else waiting
        self._check_caller(request, caller)
        return None

    async def _check_awaited_caller(self, request: Request, caller: Awaitable[Caller]) -> None:
        self._check_caller(request, await caller)

    def _check_caller(self, request: Request, caller: Caller) -> None:
        admit_caller(request, caller)
        self._limiter.check_caller(request.identified_client, caller)

    def _check_head(self, request: Request, length: int | None) -> None:
        """Check the request line and the headers."""
        if not _METHOD.fullmatch(request.method):
            raise InvalidInputError("the method must consist of 1 to 32 capital letters", "method")
        authority = self._check_target(request)
        _merge_slashes(request)
        path = _decode_path(request)
        host = self._check_host_header(request)
        request.is_addressed = True
        route = request.route = self._router.resolve(path, request.method.decode())
        if route.is_limited:
            self._limiter.check_address(request.identified_client)
        if length != 0:
            budget = request.site.body_budget if route.keeps_body else None
            request.body = RequestBody(
                route.max_body_bytes, route.body_limit_advice, budget, length, request.client_group
            )
        request.is_from_other_site = self._is_from_other_site(request, authority or host)
        if route.keeps_body:
            request.content_type = forms.parse_content_type(request.requestHeaders)
            check_origin(request)
        expected = request.requestHeaders.getRawHeaders(b"expect", ())
        if any(expectation.lower() != b"100-continue" for expectation in expected):
            raise ExpectationFailedError("the header Expect must be 100-continue")

    def _check_target(self, request: Request) -> str:
        """Reduce an absolute URL to its path; refuse what is not a path (RFC 9112, 3.2).

        :returns: host and port of the absolute URL; an empty string for a path.
        """
        target = request.target
        if target.startswith(b"/"):
            return ""
        absolute = _ABSOLUTE_FORM.fullmatch(target)
        if not absolute:
            raise InvalidInputError("the request's target must be a path or an http URL", "path")
        request.set_target(absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2])
        authority = absolute[1].decode("latin-1")
        self._check_host_name(request, authority)
        return authority

    def _check_host_header(self, request: Request) -> str:
        """Check the header Host and return it; the request then has the public host instead.

        :raises InvalidInputError: when it is missing, given twice, or names another host.
        """
        hosts = request.requestHeaders.getRawHeaders(b"host", [])
        if len(hosts) > 1:
            raise InvalidInputError("the header Host is given twice", "Host")
        if not hosts and request.clientproto != b"HTTP/1.0":
            raise InvalidInputError("the header Host is missing", "Host")
        host = hosts[0].decode("latin-1") if hosts else ""
        if hosts:
            self._check_host_name(request, host)
        request.requestHeaders.setRawHeaders(b"host", [self._public_host])
        return host

    def _check_host_name(self, request: Request, text: str) -> None:
        match = _HOST.fullmatch(text)
        name = match[1].lower() if match else ""
        if name in LOOPBACK_HOSTS or name in self._host_names:
            return
        # The address that the client connected to; a UNIX socket has none.
        local = getattr(request.getHost(), "host", "")
        if name not in {local, f"[{local}]"} - {""}:
            raise InvalidInputError(
                f"the header Host must be {' or '.join(sorted(self._host_names | LOOPBACK_HOSTS))}"
                " or the address of a listener; another name needs --public-url or [server] host",
                "Host",
            )

    def _is_from_other_site(self, request: Request, authority: str) -> bool:
        """Return whether the browser says that a page of another site makes it send the request.

        :param authority: host and port by which the client addresses us.
        """
        origins = request.requestHeaders.getRawHeaders(b"origin", [])
        sites = request.requestHeaders.getRawHeaders(b"sec-fetch-site", [])
        if any(site not in (b"same-origin", b"none") for site in sites):
            return True
        return any(
            _normalize_origin(origin.decode("latin-1"))
            not in self._list_origins(authority, request.isSecure())
            for origin in origins
        )

    def _list_origins(self, authority: str, has_tls: bool) -> set[str]:
        own_origins = {self._public_origin}
        if authority:
            # A proxy may end TLS before us: without it, the browser may see either scheme.
            schemes = ("https",) if has_tls else tuple(_DEFAULT_PORTS)
            own_origins |= {_normalize_origin(f"{scheme}://{authority}") for scheme in schemes}
        return own_origins


def admit_caller(request: Request, caller: Caller) -> None:
    """Set the caller of a request.

    :raises ForbiddenError: when they do not have the permission that the route needs.
    """
    request.caller = caller
    assert request.route is not None
    permission = request.route.permission
    if permission is not None and permission not in caller.permissions:
        raise ForbiddenError(f"this request needs the permission {str(permission.name).lower()}")


def check_origin(request: Request) -> None:
    """Refuse what a page of another site makes a browser send, without its user's consent.

    :raises ForbiddenError: when the browser names another site.
    """
    if request.is_from_other_site:
        raise ForbiddenError("a page of another site must not submit anything here")


def _has_fired(waiting: Deferred[None]) -> bool:
    """Return whether the Deferred has its result; raise the error if the result is one."""
    if not waiting.called:
        return False
    failures: list[Failure] = []
    waiting.addErrback(failures.append)
    for failure in failures:
        failure.raiseException()
    return True


def _merge_slashes(request: Request) -> None:
    """Count several slashes in the path of a GET or HEAD as one, as clients of MIG need it."""
    if request.method in (b"GET", b"HEAD") and b"//" in request.path:
        path, mark, query = request.uri.partition(b"?")
        request.set_target(_SLASHES.sub(b"/", path) + mark + query)


def _decode_path(request: Request) -> str:
    try:
        path = unquote_to_bytes(request.path).decode()
    except UnicodeDecodeError:
        raise InvalidInputError("the path is not UTF-8", "path") from None
    if "\0" in path:
        raise InvalidInputError("the path contains a NUL character", "path")
    return path


def _normalize_origin(text: str) -> str:
    """Return an origin in the form in which origins are compared (RFC 6454, 4 and 6)."""
    scheme, _, authority = text.lower().partition("://")
    return f"{scheme}://{authority.removesuffix(_DEFAULT_PORTS.get(scheme, ''))}"
