class Sign:
    data: bytes
    status: str | None
    stderr: str

class Verify:
    valid: bool
    fingerprint: str | None
    pubkey_fingerprint: str | None
    username: str | None
    status: str | None
    stderr: str

class GPG:
    encoding: str
    def __init__(
        self,
        gpgbinary: str = "gpg",
        gnupghome: str | None = None,
        *,
        options: list[str] | None = None,
        env: dict[str, str] | None = None,
    ) -> None: ...
    def make_args(self, args: list[str], passphrase: bool) -> list[str]: ...
    def list_keys(self, secret: bool, keys: list[str]) -> list[dict[str, str | list[str]]]: ...
    def sign(self, message: bytes, *, detach: bool, extra_args: list[str]) -> Sign: ...
    def verify_data(self, sig_filename: str, data: bytes) -> Verify: ...
