"""Typed records of what the database holds."""
