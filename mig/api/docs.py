"""The description of the API: for programs in OpenAPI, and for people by swagger-ui."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Final

from twisted.internet.defer import DeferredLock
from twisted.internet.threads import deferToThreadPool

from mig.access.caller import Caller
from mig.api.responder import Responder, refuse_parameters
from mig.errors import NotFoundError
from mig.reactor import Reactor
from mig.web.request import Request

_PAGE_HEADERS: Final[Mapping[bytes, bytes]] = {
    # docs/decisions/0115
    b"content-security-policy": b"default-src 'none'; script-src 'self'; style-src 'self';"
    b" img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none';"
    b" frame-ancestors 'none'",
}
_FILE_HEADERS: Final[Mapping[bytes, bytes]] = {b"cache-control": b"public, max-age=3600"}

FILES: Final[Mapping[str, str]] = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "init.js": "text/javascript",
    "LICENSE": "text/plain",
    "NOTICE": "text/plain",
    "swagger-ui-bundle.js.LICENSE.txt": "text/plain",
}
"""The media type of each file of the page, all of which are in UTF-8."""
FILE_TYPES: Final = tuple(f"{each}; charset=utf-8" for each in dict.fromkeys(FILES.values()))


class DocsResource:
    """The handlers of the description of the API.

    Files are read in a thread, one at a time, and not kept: few people need them.

    :param build_openapi: returns the OpenAPI document; it is called once, in a thread.
    """

    def __init__(
        self, reactor: Reactor, responder: Responder, build_openapi: Callable[[], bytes]
    ) -> None:
        self._reactor = reactor
        self._responder = responder
        self._build_openapi = build_openapi
        self._openapi = b""
        self._lock = DeferredLock()

    async def get_openapi(self, request: Request, caller: Caller) -> bytes:
        """Return the OpenAPI document."""
        refuse_parameters(request)
        if not self._openapi:
            self._openapi = await self._run_in_thread(self._build_openapi)
        return request.prepare_json(self._openapi)

    async def get_page(self, request: Request, caller: Caller) -> bytes | None:
        """Return the page for people."""
        refuse_parameters(request)
        page = await self._run_in_thread(lambda: _read_file("page.html"))
        page = page.replace(b"{path}", self._responder.urls.base_path.encode())
        return await self._answer_file(request, page, "text/html", _PAGE_HEADERS)

    async def get_file(self, request: Request, caller: Caller) -> bytes | None:
        """Return a file of the page."""
        refuse_parameters(request)
        name = request.path.rstrip(b"/").rpartition(b"/")[2].decode("latin-1")
        if name not in FILES:
            raise NotFoundError(f"there is no such file; the files are {', '.join(FILES)}")
        content = await self._run_in_thread(lambda: _read_file(name))
        return await self._answer_file(request, content, FILES[name], _FILE_HEADERS)

    async def _answer_file(
        self, request: Request, content: bytes, media_type: str, headers: Mapping[bytes, bytes]
    ) -> bytes | None:
        request.choose_media_type((media_type,))
        request.describe_answer("utf-8", headers)
        return await self._responder.answer_document(request, content)

    async def _run_in_thread(self, function: Callable[[], bytes]) -> bytes:
        pool = self._reactor.getThreadPool()
        result: bytes = await self._lock.run(deferToThreadPool, self._reactor, pool, function)
        return result


def _read_file(name: str) -> bytes:
    return (files("mig.api") / "swagger" / name).read_bytes()
