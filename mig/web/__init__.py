"""HTTP without MIG: connections, requests, forms, streams."""
