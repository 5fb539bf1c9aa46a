"""What a signature covers, and whether it is good."""
