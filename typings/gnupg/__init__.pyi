class GPG:
    def __init__(
        self,
        gpgbinary: str = "gpg",
        *,
        options: list[str] | None = None,
        env: dict[str, str] | None = None,
    ) -> None: ...
    def make_args(self, args: list[str], passphrase: bool) -> list[str]: ...
