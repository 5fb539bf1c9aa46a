"""Clients in Python: see ../cuts.py. The argument is requests or http.client."""

from __future__ import annotations

import hashlib
import http.client
import json
import sys
from urllib.parse import urlsplit

import requests

Order = dict[str, str]


def use_requests(order: Order, headers: dict[str, str]) -> bytes:
    response = requests.get(order["url"], headers=headers, timeout=60)
    response.raise_for_status()
    return response.content


def use_http_client(order: Order, headers: dict[str, str]) -> bytes:
    parts = urlsplit(order["url"])
    connection = http.client.HTTPConnection(parts.netloc, timeout=60)
    connection.request("GET", f"{parts.path}?{parts.query}", headers=headers)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    if response.status != 200:
        raise ValueError(f"status {response.status}")
    return body


def main() -> None:
    read = use_requests if sys.argv[1] == "requests" else use_http_client
    for line in sys.stdin:
        order = json.loads(line)
        headers = {"Accept-Encoding": order["encoding"], "X-Cut": str(order["cut"])}
        try:
            found = {"sha256": hashlib.sha256(read(order, headers)).hexdigest()}
        except Exception as error:
            found = {"error": repr(error)}
        print(json.dumps(found))


if __name__ == "__main__":
    main()
