"""What is loaded again while the daemon runs: certificates, and some keys of the configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from twisted.logger import Logger

from mig.errors import ConfigError
from mig.service.config_file import Config, list_changes, read_config_file


class Reloader:
    """Loads again what may change while the daemon runs.

    :param path: the configuration file, if there is one.
    :param config: what was read from it.
    :param certificates: load the certificates again; each logs what came of it.
    """

    log = Logger()

    def __init__(
        self, path: Path | None, config: Config, certificates: Sequence[Callable[[], None]]
    ) -> None:
        self._path = path
        self._started = self._config = config
        self._certificates = certificates
        self._receivers: list[Callable[[Config], None]] = []

    def add_receiver(self, receive: Callable[[Config], None]) -> None:
        """Have ``receive`` called with each configuration that is loaded."""
        self._receivers.append(receive)

    def reload(self) -> None:
        """Load everything again; a file with a fault changes nothing, and the log says why."""
        for load in self._certificates:
            load()
        if self._path is None:
            return
        try:
            config = read_config_file(self._path)
        except ConfigError as reason:
            self.log.error(
                "the configuration was not loaded, and the one before it remains in use: {reason}",
                reason=str(reason),
            )
            return
        changed, _ = list_changes(self._config, config)
        _, waiting = list_changes(self._started, config)
        self._config = config
        for receive in self._receivers:
            receive(config)
        if changed:
            self.log.info("loaded from {path}: {keys}", path=self._path, keys=", ".join(changed))
        if waiting:
            self.log.warn(
                "changed in {path}, but in use only after the next start: {keys}",
                path=self._path,
                keys=", ".join(waiting),
            )
