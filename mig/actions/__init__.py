"""Submission of actions: their checks, their storage, and the hand-off to the scheduler."""
