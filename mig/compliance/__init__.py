"""Compliance items, made from stored commands."""
