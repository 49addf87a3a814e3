"""``python -m has8.cli`` is ``has8``."""

from has8.cli import main

main()
