"""``python -m autotransfer``."""

from autotransfer.cli import main

main()
