"""The keys in the keyring of the user."""

from __future__ import annotations

import os
import sys

import gnupg

from mig.client.signer import SigningError
from mig.migctl.exits import UsageError


def find_key(text: str, home: str | None) -> str:
    """Return the fingerprint of the secret key that ``text`` names.

    :param text: a fingerprint, a key id, or a part of a user id, as gpg takes it.
    :raises UsageError: when it names none, or several.
    """
    try:
        found = gnupg.GPG(gnupghome=home).list_keys(secret=True, keys=[text])
    except (OSError, ValueError) as reason:
        raise SigningError(f"gpg cannot be used: {reason}") from reason
    if not found:
        raise UsageError(f"no secret key of gpg fits {text!r}", "list them: gpg --list-secret-keys")
    if len(found) > 1:
        several = "; ".join(f"{key['fingerprint']} {key['uids'][0]}" for key in found)
        raise UsageError(f"several secret keys of gpg fit {text!r}: {several}")
    return str(found[0]["fingerprint"])


def tell_gpg_the_terminal() -> None:
    """Let the agent of gpg ask for a passphrase on this terminal."""
    if sys.stdin.isatty():
        os.environ.setdefault("GPG_TTY", os.ttyname(sys.stdin.fileno()))
