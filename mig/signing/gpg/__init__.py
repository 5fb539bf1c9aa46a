"""gpg: its processes, what they answer, and what is made of it."""
