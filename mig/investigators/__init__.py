"""Adding and changing investigators."""
