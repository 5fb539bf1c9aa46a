"""How the tests read pages, and what no page may have."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from urllib.parse import urlsplit

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
"""What a browser accepts when its user opens a page."""

POLICY = "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'"

_TAGS = set(
    re.findall(
        r"\w+",
        "html head meta title link body header nav main h1 h2 p code div table thead tr th tbody td"
        " a time pre dl dt dd ul li section form fieldset label input select option textarea button"
        " small strong details summary",
    )
)
_VOID_TAGS = {"meta", "link", "input"}
_ATTRIBUTES = set(
    re.findall(
        r"[\w-]+",
        "lang charset name content href rel class id role scope colspan datetime method action for"
        " value type min max maxlength inputmode pattern placeholder autocomplete spellcheck rows"
        " cols disabled data-title accept-charset",
    )
)
_OWN_ADDRESS = re.compile(r"/(?![/\\])\S*|")


class Page(HTMLParser):
    """A page that has been read; reading it fails for what it may not have."""

    def __init__(self, document: bytes) -> None:
        super().__init__()
        self.text = ""
        self.rows: list[dict[str, str]] = []
        self.links: dict[str, str] = {}
        self.fields: dict[str, dict[str, str | None]] = {}
        self.options: dict[str, list[str]] = {}
        self._open: list[str] = []
        self._cell: str | None = None
        self._link: str | None = None
        self._select = ""
        self._option = False
        text = document.decode()
        assert text.startswith("<!DOCTYPE html>\n<html")
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert tag in _TAGS, tag
        assert given.keys() <= _ATTRIBUTES, given
        if tag not in _VOID_TAGS:
            self._open.append(tag)
        for name in ("href", "action"):
            if name in given:
                self._check_address(given[name] or "", given.get("rel") or "")
        if tag == "tr" and "td" not in self._open:
            self.rows.append({})
        if tag == "td":
            self._cell = given.get("data-title") or ""
            self.rows[-1][self._cell] = ""
        if tag == "a":
            self._link = given["href"]
        if tag in ("input", "select", "textarea"):
            self.fields[given["name"] or ""] = given
            self._select = given["name"] or ""
        self._option = tag == "option"

    def _check_address(self, address: str, rel: str) -> None:
        if not _OWN_ADDRESS.fullmatch(address):
            assert urlsplit(address).scheme.lower() in ("http", "https"), address
            assert rel == "noreferrer", address

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag == "td":
            self._cell = None
        if tag == "a":
            self._link = None
        self._option = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._cell is not None:
            self.rows[-1][self._cell] += data
        if self._link is not None:
            self.links[data] = self._link
        if self._option:
            self.options.setdefault(self._select, []).append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    @property
    def items(self) -> list[dict[str, str]]:
        """The rows of the table, without its head."""
        return [row for row in self.rows if row]
