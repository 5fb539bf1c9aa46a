"""What a signature covers, who made it, and whether it is good."""
