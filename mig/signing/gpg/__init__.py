"""Verification by gpg: its processes, their status lines, and the verdicts."""
