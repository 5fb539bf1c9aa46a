"""A listener that other machines can reach needs authentication, and TLS or the word for none."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from mig.errors import ListenerError
from mig.service.endpoints import parse_endpoint
from mig.service.exposure import choose_authentication, open_listeners

PRIVATE = (
    *("tcp:0", "tcp:0:interface=127.8.9.1", "tcp6:0", "tcp6:0:interface=\\:\\:ffff\\:127.0.0.1"),
    *("ssl:0:certKey=c", "ssl:0:interface=\\:\\:1:certKey=c", "unix:s", "unix:s:mode=666"),
)
PUBLIC_ADDRESSES = ("0.0.0.0", "192.0.2.1", "\\:\\:", "2001\\:db8\\:\\:1", "\\:\\:ffff\\:192.0.2.1")
PUBLIC = [f"{'tcp6' if ':' in each else 'tcp'}:0:interface={each}" for each in PUBLIC_ADDRESSES]
PUBLIC_WITH_TLS = [f"ssl:0:interface={address}:certKey=c" for address in PUBLIC_ADDRESSES]

AUTHENTICATION = "needs [authentication] enabled = on (--authentication on)"
TLS = (
    "TLS (ssl:PORT:interface=ADDRESS:certKey=FILE:privateKey=FILE, or [server] tlscert) or, without"
)
PROXY = "; or listen on 127.0.0.1, ::1 or a Unix socket, and let a reverse proxy with TLS forward"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change to a folder, so that the relative path of a socket is short enough."""
    monkeypatch.chdir(tmp_path)


def choose(wanted: bool | None, *texts: str, cleartext: bool = False) -> bool:
    return choose_authentication(wanted, map(parse_endpoint, texts), cleartext=cleartext)


def refuse(wanted: bool | None, *texts: str, cleartext: bool = False) -> str:
    with pytest.raises(ListenerError) as told:
        choose(wanted, *texts, cleartext=cleartext)
    assert "\n" not in str(told.value)
    assert str(told.value).endswith(PROXY)
    return str(told.value)


@pytest.mark.parametrize(("wanted", "chosen"), [(None, False), (False, False), (True, True)])
def test_local_listeners_have_no_authentication_unless_it_is_wanted(
    wanted: bool | None, chosen: bool
) -> None:
    for text in PRIVATE:
        assert choose(wanted, text) is chosen
    assert choose(wanted, *PRIVATE) is chosen


@pytest.mark.parametrize("cleartext", [False, True])
@pytest.mark.parametrize("wanted", [None, False])
@pytest.mark.parametrize("text", PUBLIC_WITH_TLS)
def test_a_public_listener_with_tls_needs_authentication(
    text: str, wanted: bool | None, cleartext: bool
) -> None:
    """It must be on for all listeners, also for one that only this host can reach."""
    told = refuse(wanted, "tcp:0", text, cleartext=cleartext)
    assert told.startswith(f"{text}: other machines could reach it, which {AUTHENTICATION};")
    assert choose(True, "tcp:0", text)


@pytest.mark.parametrize("text", PUBLIC)
def test_a_public_listener_without_tls_also_needs_leave_to_be_without(text: str) -> None:
    for wanted in (None, False):
        both = refuse(wanted, text)
        assert AUTHENTICATION in both and f"and {TLS}" in both
        assert TLS not in refuse(wanted, text, cleartext=True)
    only_tls = refuse(True, text)
    assert f"needs {TLS}" in only_tls and AUTHENTICATION not in only_tls
    assert "[server] cleartext = on" in only_tls
    assert choose(True, text, cleartext=True)


def open_descriptor(family: socket.AddressFamily, address: str) -> int:
    """Return a listening socket as a parent process passes it on."""
    made = socket.socket(family, socket.SOCK_STREAM)
    made.bind(address if family == socket.AF_UNIX else (address, 0))
    made.listen()
    return made.detach()


@pytest.mark.parametrize(
    ("family", "address", "is_local"),
    [
        (socket.AF_INET, "127.0.0.1", True),
        (socket.AF_INET6, "::1", True),
        (socket.AF_INET, "0.0.0.0", False),
        (socket.AF_INET6, "::", False),
        (socket.AF_UNIX, "", True),
    ],
)
@pytest.mark.parametrize("tls", ["", ":certKey=c"])
def test_an_inherited_socket_is_judged_by_its_address(
    family: socket.AddressFamily, address: str, is_local: bool, tls: str
) -> None:
    number = open_descriptor(family, address)
    text = f"fd:{number}{tls}"
    if is_local:
        [listener], authentication = open_listeners([text], None)
        assert listener.is_local and not authentication
        listener.close()
    else:
        with pytest.raises(ListenerError, match=f"^{text}: other machines could reach it"):
            open_listeners(["unix:s", text], None)
        assert not Path("s").exists()
        [listener], authentication = open_listeners([text], True, cleartext=not tls)
        assert authentication and not listener.is_local
        listener.close()
    os.close(number)


def test_nothing_is_bound_when_a_text_names_a_public_address() -> None:
    """So it does not matter whether the port is free."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenerError, match="other machines could reach it"):
            open_listeners(["unix:s", f"tcp:{port}", f"tcp:{port}:interface=0.0.0.0"], None)
    assert not Path("s").exists()
