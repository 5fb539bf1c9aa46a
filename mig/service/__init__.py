"""The twistd service: options, and what is built from them."""
