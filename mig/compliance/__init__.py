"""From a stored command to compliance items."""
