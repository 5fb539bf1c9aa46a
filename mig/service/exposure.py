"""What a listener that other machines can reach needs before the daemon starts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from mig.errors import ListenerError
from mig.service.certificates import CertificateFiles

TLS_FORM = (
    "TLS (ssl:PORT:interface=ADDRESS:certKey=FILE:privateKey=FILE, or [server] tlscert) or, without"
    " it, [server] cleartext = on"
)
ALTERNATIVE = (
    "or listen on 127.0.0.1, ::1 or a Unix socket, and let a reverse proxy with TLS forward"
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
