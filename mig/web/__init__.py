"""HTTP, and nothing of MIG: connections, requests, forms, streams."""
