"""Which answers are pages for browsers, and what the first of them has to wait for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.threads import deferToThreadPool

from mig.reactor import Reactor
from mig.web.negotiation import HTML, choose_media_type
from mig.web.request import Request


class Pages:
    """The decision which requests are answered by pages.

    :param media_types: the other types of answers: a page is for who likes HTML more.
    :param load: loads what pages are made of. It is called in a thread, before the first page: it
        takes longer than other requests should wait, and most processes never need it.
    """

    def __init__(
        self, reactor: Reactor, media_types: tuple[str, ...], load: Callable[[], None]
    ) -> None:
        self._reactor = reactor
        self._media_types = (*media_types, HTML)
        self._load = load
        self._is_loaded = False

    def prepare(self, request: Request) -> Awaitable[None] | None:
        """Set whether the answer is a page; return what to wait for before that, if anything."""
        if choose_media_type(request.accept, self._media_types) != HTML:
            return None
        if not self._is_loaded:
            return self._prepare_first(request)
        request.is_page_wanted = True
        return None

    async def _prepare_first(self, request: Request) -> None:
        await deferToThreadPool(self._reactor, self._reactor.getThreadPool(), self._load)
        self._is_loaded = request.is_page_wanted = True
