"""Investigators are added and changed."""
