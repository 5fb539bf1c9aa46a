"""What the log says at the start about who needs credentials."""

from __future__ import annotations

from typing import Final

OFF_WARNING: Final = (
    "authentication is off: every account of this host that can connect acts with all permissions;"
    " a Unix socket with mode=660 is better"
)
