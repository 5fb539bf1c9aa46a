"""Certificates that are made for a test, and clients that check them."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

HOUR = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """A certificate with its key."""

    certificate: x509.Certificate
    private_key: CertificateIssuerPrivateKeyTypes

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    @property
    def key_pem(self) -> str:
        return self.encode_key(None)

    def encode_key(self, passphrase: bytes | None) -> str:
        protection = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
        return self.private_key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, protection
        ).decode()

    def write(self, folder: Path, name: str = "server") -> tuple[Path, Path]:
        """Write NAME.pem and NAME.key, and return their paths."""
        paths = folder / f"{name}.pem", folder / f"{name}.key"
        for path, text in zip(paths, (self.pem, self.key_pem), strict=True):
            path.write_text(text)
        paths[1].chmod(0o600)
        return paths


def issue_certificate(
    name: str = "localhost",
    issuer: Certificate | None = None,
    *,
    begin: timedelta = -HOUR,
    end: timedelta = HOUR,
    key: CertificateIssuerPrivateKeyTypes | None = None,
    is_authority: bool = False,
) -> Certificate:
    """Make a certificate for *name*, valid from *begin* to *end* after now.

    Without an *issuer* it is signed by its own key.
    """
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder(
            subject_name=subject,
            issuer_name=issuer.certificate.subject if issuer else subject,
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
        )
        .not_valid_before(now + begin)
        .not_valid_after(now + end)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(
            x509.BasicConstraints(ca=is_authority or not issuer, path_length=None), critical=True
        )
    )
    signed = builder.sign(issuer.private_key if issuer else key, SHA256())
    return Certificate(certificate=signed, private_key=key)


def trust(*certificates: Certificate) -> ssl.SSLContext:
    """Return what a client needs to trust these certificates only."""
    return ssl.create_default_context(cadata="".join(each.pem for each in certificates))
