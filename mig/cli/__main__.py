"""``python -m mig.cli``."""

from mig.cli import main

main()
