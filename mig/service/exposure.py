"""What a listener that other machines can reach needs before the daemon starts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from mig.errors import ListenerError
from mig.service.endpoints import CertificateFiles, Endpoint, parse_endpoint
from mig.service.listeners import Listener, bind_listeners

TLS_FORM = (
    "TLS (ssl:PORT:interface=ADDRESS:certKey=FILE:privateKey=FILE, or [server] tlscert) or, without"
    " it, [server] cleartext = on"
)
ALTERNATIVE = (
    "or listen on 127.0.0.1, ::1 or a Unix socket, and let a reverse proxy with TLS forward"
)
ADMIN_FORMS = (
    "it has no authentication, so it must be a Unix socket (unix:PATH:mode=660) or a loopback"
    " address, without TLS"
)


class Reachable(Protocol):
    """A listener, or the endpoint of one that is not bound yet."""

    @property
    def text(self) -> str:
        """The endpoint text."""

    @property
    def is_local(self) -> bool:
        """Whether only this host can reach it, as far as that is known."""

    @property
    def certificate_files(self) -> CertificateFiles | None:
        """The files of its certificate, if it has TLS."""


def open_listeners(
    texts: Iterable[str], wanted: bool | None, *, cleartext: bool = False
) -> tuple[list[Listener], bool]:
    """Bind the listeners that endpoint texts name, or none.

    :returns: the listeners, and whether callers need credentials.
    :raises ListenerError: for a wrong text, for a listener that lacks something, and when an
        address cannot be bound.
    """
    endpoints = [parse_endpoint(text) for text in texts]
    choose_authentication(wanted, endpoints, cleartext=cleartext)  # before any is bound
    listeners = bind_listeners(endpoints)
    try:
        # again, because only an inherited socket itself tells its address
        return listeners, choose_authentication(wanted, listeners, cleartext=cleartext)
    except ListenerError:
        for listener in listeners:
            listener.close()
        raise


def choose_authentication(
    wanted: bool | None, listeners: Iterable[Reachable], *, cleartext: bool = False
) -> bool:
    """Return whether callers need credentials, which by default they do not.

    :param wanted: what the configuration says; ``None`` when it says nothing.
    :param cleartext: whether credentials may cross a network without TLS.
    :raises ListenerError: when other machines can reach a listener, with what is missing then.
    """
    for listener in listeners:
        missing = []
        if not listener.is_local and not wanted:
            missing.append("[authentication] enabled = on (--authentication on)")
        if not listener.is_local and listener.certificate_files is None and not cleartext:
            missing.append(TLS_FORM)
        if missing:
            raise ListenerError(
                f"{listener.text}: other machines could reach it, which needs"
                f" {' and '.join(missing)}; {ALTERNATIVE}"
            )
    return bool(wanted)


def parse_admin_endpoint(text: str) -> Endpoint:
    """Return the parts of the text of the listener for operators.

    :raises ListenerError: when other machines could reach it, and for a wrong text.
    """
    endpoint = parse_endpoint(text)
    if not endpoint.is_local or endpoint.certificate_files is not None:
        raise ListenerError(f"{text}: {ADMIN_FORMS}")
    return endpoint


def open_admin_listener(text: str) -> Listener:
    """Bind the listener for operators, which needs no credentials.

    :raises ListenerError: when other machines could reach it, for a wrong text, and when the
        address cannot be bound.
    """
    [listener] = bind_listeners([parse_admin_endpoint(text)])
    if not listener.is_local:  # only an inherited socket itself tells its address
        listener.close()
        raise ListenerError(f"{text}: {ADMIN_FORMS}")
    return listener
