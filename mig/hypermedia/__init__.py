"""Collection+JSON, URLs and templates: what a client that knows nothing of MIG reads."""
