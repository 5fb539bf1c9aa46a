"""Actions and investigators on their way in."""
