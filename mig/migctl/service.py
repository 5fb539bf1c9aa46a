"""The service and the keys of a configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mig.migctl.configuration import URL_VARIABLE, Configuration
from mig.migctl.exits import UsageError
from mig.migctl.terminal import print_notice
from mig.startup import pause_collector

if TYPE_CHECKING:
    from mig.client.blocking import MIGClient
    from mig.client.errors import MIGClientError
    from mig.client.signer import Signer


def open_client(configuration: Configuration) -> MIGClient:
    """Return a client of the service.

    The caller is identified by the API key, or else by tokens of the configured key of gpg.

    :raises UsageError: when there is no URL.
    """
    if not configuration.url:
        hint = f"give --url, set {URL_VARIABLE}, or run `migctl config init`"
        raise UsageError("which service? There is no URL", hint)
    if not _is_url(configuration.url):
        hint = "for example https://mig.example.com/api/v1"
        raise UsageError(
            f"{configuration.url!r} is not a URL that begins with https:// or http://", hint
        )
    with pause_collector():
        from mig.client.blocking import MIGClient

    credentials: str | Signer | None = configuration.apikey
    if credentials is None and configuration.keyid:
        credentials = open_signer(configuration)
    agent = None
    if configuration.skipverifycert:
        from mig.migctl.unverified import make_unverified_agent

        print_notice("the certificate of the service is not checked: skipverifycert")
        agent = make_unverified_agent()
    return MIGClient(configuration.url, credentials, agent=agent, on_retry=_print_retry)


def _print_retry(reason: MIGClientError, seconds: float) -> None:
    print_notice(f"{reason}; trying again in {seconds:.0f} s")


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    has_space = any(character.isspace() for character in text)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not has_space


def open_signer(configuration: Configuration) -> Signer:
    """Return who signs: the configured key, else gpg's default key.

    :raises UsageError: when the key is not one of the keyring.
    """
    from mig.client.signer import Signer
    from mig.migctl.keys import find_key, tell_gpg_the_terminal

    tell_gpg_the_terminal()
    home = configuration.home
    return Signer(configuration.keyid and find_key(configuration.keyid, home), home=home)


def open_verifier(configuration: Configuration) -> Signer:
    """Return who checks signatures with the keyring of the user."""
    from mig.client.signer import Signer

    return Signer(home=configuration.home)
