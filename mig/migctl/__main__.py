"""``python -m mig.migctl``."""

from mig.migctl import main

main()
