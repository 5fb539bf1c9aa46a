"""The certificates of TLS listeners: loaded at the start, and again without a restart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.ssl import CertificateOptions, TLSVersion
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from mig.account import Account
from mig.errors import CertificateError
from mig.reactor import WallClock
from mig.service.config_file import Postgres
from mig.service.config_values import SYSTEM_CERTIFICATES
from mig.service.endpoints import CertificateFiles


@dataclass(frozen=True, kw_only=True)
class _LoadedCertificate:
    """A certificate that OpenSSL accepts, and the time in which clients do."""

    options: CertificateOptions
    begin: datetime
    end: datetime

    def find_fault(self, now: datetime) -> str:
        """Return why clients would not accept the certificate now; empty if they would."""
        if now < self.begin:
            return f"it is not valid before {self.begin:%Y-%m-%dT%H:%M:%SZ}"
        return f"it expired at {self.end:%Y-%m-%dT%H:%M:%SZ}" if now > self.end else ""


@implementer(IOpenSSLServerConnectionCreator)
class ServerCertificate:
    """The certificate that new connections get; those that are open keep theirs.

    :param account: the account of the running daemon, which must be able to load it again.
    :raises CertificateError: when the files cannot be used.
    """

    _log = Logger()

    def __init__(self, files: CertificateFiles, account: Account, wall_clock: WallClock) -> None:
        self._files = files
        self._wall_clock = wall_clock
        with account.act():
            self._loaded = _load_certificate(files)

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:  # noqa: N803
        """Return the state of a new connection."""
        return self._loaded.options.serverConnectionForTLS(tlsProtocol)

    def find_fault(self) -> str:
        """Return why clients do not accept the certificate at this time; empty if they do."""
        fault = self._loaded.find_fault(self._get_time())
        return (
            f"the certificate in {self._files.certificate} is of no use: {fault}" if fault else ""
        )

    @property
    def end(self) -> datetime:
        """When clients stop accepting the certificate."""
        return self._loaded.end

    def reload(self) -> None:
        """Load the files again, and log the result; the old certificate stays if that fails."""
        path = self._files.certificate
        try:
            loaded = _load_certificate(self._files)
            fault = loaded.find_fault(self._get_time())
        except CertificateError as reason:
            fault = str(reason)
        if fault:
            self._log.error(
                "the certificate in {path} was not loaded, and the one before it remains in use:"
                " {fault}",
                path=path,
                fault=fault,
            )
            return
        self._loaded = loaded
        self._log.info(
            "the certificate in {path} was loaded, and is valid until {end}",
            path=path,
            end=f"{loaded.end:%Y-%m-%dT%H:%M:%SZ}",
        )

    def _get_time(self) -> datetime:
        return datetime.fromtimestamp(self._wall_clock(), UTC)


def load_certificates(
    files: Iterable[CertificateFiles | None], account: Account, wall_clock: WallClock
) -> dict[CertificateFiles, ServerCertificate]:
    """Load the certificates of listeners, each once; ``None`` is a listener without one.

    :raises CertificateError: when one cannot be used.
    """
    return {each: ServerCertificate(each, account, wall_clock) for each in set(files) if each}


def check_database_files(postgres: Postgres, account: Account) -> None:
    """Check that the daemon can read the files of ``[postgres]``, which libpq reads later.

    libpq goes on without a certificate that is missing, and the server's refusal names no file.

    :raises CertificateError: naming key, user and file.
    """
    for key in ("sslrootcert", "sslcert", "sslkey"):
        path = getattr(postgres, key)
        if path is None or path == SYSTEM_CERTIFICATES:
            continue
        try:
            with account.act():
                _read_file(Path(path))
        except CertificateError as reason:
            raise CertificateError(f"[postgres] {key}: {reason}") from None


def _load_certificate(files: CertificateFiles) -> _LoadedCertificate:
    """Load a certificate and its key with the rights that this process has now.

    :raises CertificateError: when a file cannot be read or does not have what it should.
    """
    certificate, *chain = _load_chain(files.certificate)
    key = _load_key(files.key)
    try:
        belongs = certificate.public_key() == key.public_key()
    except (UnsupportedAlgorithm, ValueError):
        belongs = False
    if not belongs:
        raise CertificateError(
            f"the key in {files.key} does not belong to the first certificate in"
            f" {files.certificate}"
        )
    try:
        options = _make_options(certificate, chain, key)
    except (SSL.Error, ValueError, TypeError) as reason:
        raise CertificateError(
            f"OpenSSL does not accept the certificate in {files.certificate}: {_explain(reason)}"
        ) from None
    return _LoadedCertificate(
        options=options,
        begin=certificate.not_valid_before_utc,
        end=certificate.not_valid_after_utc,
    )


def _load_chain(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read_file(path))
    except ValueError:
        raise CertificateError(f"{path} has no certificate in the form PEM") from None


def _load_key(path: Path) -> PrivateKeyTypes:
    text = _read_file(path)
    try:
        # Whether an RSA key is made of primes takes up to 3 s to test, and the reactor would wait.
        return load_pem_private_key(text, None, unsafe_skip_rsa_key_validation=True)
    except TypeError:
        raise CertificateError(
            f"the key in {path} has a passphrase: store it without one"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError(f"{path} has no private key in the form PEM") from None


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as reason:
        user = Account.of_process().name
        raise CertificateError(f"the user {user} cannot read {path}: {reason.strerror}") from None


def _make_options(
    certificate: x509.Certificate, chain: list[x509.Certificate], key: PrivateKeyTypes
) -> CertificateOptions:
    options = CertificateOptions(
        # Twisted passes them on to pyOpenSSL, which warns of the types that Twisted declares.
        privateKey=key,  # type: ignore[arg-type]
        certificate=certificate,  # type: ignore[arg-type]
        extraCertChain=chain,  # type: ignore[arg-type]
        raiseMinimumTo=TLSVersion.TLSv1_2,
    )
    options.getContext().set_options(SSL.OP_NO_RENEGOTIATION)
    return options


def _explain(reason: Exception) -> str:
    """Return what OpenSSL says, in one line."""
    errors = reason.args[0] if isinstance(reason, SSL.Error) and reason.args else None
    return "; ".join(error[-1] for error in errors) if errors else str(reason)
