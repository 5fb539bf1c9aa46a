"""The certificate of a listener is checked when it is loaded, and stays when a new one is bad."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from mig.account import Account, find_user_name
from mig.errors import CertificateError
from mig.service.certificates import ServerCertificate
from mig.service.endpoints import CertificateFiles
from tests.support.certificates import Certificate, issue_certificate
from tests.support.reactor import record_log

USER = find_user_name(os.geteuid())
FILES = CertificateFiles(certificate=Path("server.pem"), key=Path("server.key"))
DAY = timedelta(days=1)
KEPT = "the certificate in server.pem was not loaded, and the one before it remains in use: "


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load() -> ServerCertificate:
    return ServerCertificate(FILES, Account.of_process(), time.time)


def make_short_key() -> Certificate:
    return issue_certificate(key=rsa.generate_private_key(65537, 1024))


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no certificate": (
        lambda folder: (folder / "server.pem").unlink(),
        f"the user {USER} cannot read server.pem: No such file or directory",
    ),
    "no key": (
        lambda folder: (folder / "server.key").unlink(),
        f"the user {USER} cannot read server.key: No such file or directory",
    ),
    "half a certificate": (
        lambda folder: (folder / "server.pem").write_text(issue_certificate().pem[:400]),
        "server.pem has no certificate in the form PEM",
    ),
    "half a key": (
        lambda folder: (folder / "server.key").write_text(issue_certificate().key_pem[:60]),
        "server.key has no private key in the form PEM",
    ),
    "a key with a passphrase": (
        lambda folder: (folder / "server.key").write_text(issue_certificate().encode_key(b"x")),
        "the key in server.key has a passphrase: store it without one",
    ),
    "another key": (
        lambda folder: (folder / "server.key").write_text(issue_certificate().key_pem),
        "the key in server.key does not belong to the first certificate in server.pem",
    ),
    "a short key": (
        lambda folder: make_short_key().write(folder),
        "OpenSSL does not accept the certificate in server.pem: ee key too small",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_certificate_that_cannot_be_used_is_refused_with_the_reason(
    fault: str, folder: Path
) -> None:
    issue_certificate().write(folder)
    certificate = load()
    assert certificate.find_fault() == ""
    spoil, reason = FAULTS[fault]
    spoil(folder)
    with pytest.raises(CertificateError) as refusal:
        load()
    assert str(refusal.value) == reason
    with record_log() as log:
        certificate.reload()
    assert log.lines == [KEPT + reason]
    assert not log.failures


@pytest.mark.parametrize(
    ("begin", "end", "fault"),
    [(DAY, 2 * DAY, "it is not valid before 2"), (-2 * DAY, -DAY, "it expired at 2")],
    ids=["too new", "expired"],
)
def test_a_certificate_of_another_time_is_no_reason_not_to_start(
    begin: timedelta, end: timedelta, fault: str, folder: Path
) -> None:
    """It does not replace one that clients accept."""
    issue_certificate().write(folder)
    certificate = load()
    issue_certificate(begin=begin, end=end).write(folder)
    assert load().find_fault().startswith(f"the certificate in server.pem is of no use: {fault}")
    with record_log() as log:
        certificate.reload()
    assert [line[: len(KEPT + fault)] for line in log.lines] == [KEPT + fault]


def test_a_new_certificate_is_said_to_be_in_use(folder: Path) -> None:
    issue_certificate().write(folder)
    certificate = load()
    new = issue_certificate(end=DAY)
    new.write(folder)
    with record_log() as log:
        certificate.reload()
    end = new.certificate.not_valid_after_utc
    assert log.lines == [
        f"the certificate in server.pem was loaded, and is valid until {end:%Y-%m-%dT%H:%M:%SZ}"
    ]
