"""A flood of equal requests, as a program of its own: it must not slow down what is measured.

``python -P flood.py HOST PORT SOURCE COUNT FILE`` sends the content of FILE over COUNT connections
from the address SOURCE, each again as soon as it is answered, over a new connection where the old
one was closed. It prints ``flooding`` when every connection has sent once, and ends with its
standard input; then it prints how many answers it had of each status.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path


class Flood:
    """What all connections of a flood share."""

    def __init__(self, address: tuple[str, int], source: str, request: bytes) -> None:
        self._address = address
        self._source = source
        self._request = request
        self.statuses: Counter[str] = Counter()
        self.sent_count = 0

    async def run_connection(self) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection(
                    *self._address, local_addr=(self._source, 0)
                )
            except OSError:
                self.statuses["not connected"] += 1
                await asyncio.sleep(0.05)
                continue
            try:
                while await self._send_request(reader, writer):
                    pass
            except (OSError, asyncio.IncompleteReadError):
                self.statuses["cut"] += 1
            finally:
                writer.close()

    async def _send_request(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Return whether the connection can be used again."""
        writer.write(self._request)
        await writer.drain()
        self.sent_count += 1
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = head.partition(b"content-length: ")[2].split(b"\r\n")[0]
        await reader.readexactly(int(length or 0))
        self.statuses[head.split()[1].decode()] += 1
        return b"connection: close" not in head


async def main() -> None:
    """Run the program."""
    host, port, source, count, file = sys.argv[1:]
    flood = Flood((host, int(port)), source, Path(file).read_bytes())
    connections = [asyncio.create_task(flood.run_connection()) for _ in range(int(count))]
    while flood.sent_count < len(connections):
        await asyncio.sleep(0.01)
    print("flooding", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for connection in connections:
        connection.cancel()
    print(json.dumps(flood.statuses))


if __name__ == "__main__":
    asyncio.run(main())
