"""The twistd service: its options, and the parts that are built from them."""
