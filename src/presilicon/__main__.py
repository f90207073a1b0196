"""``python -m presilicon``."""

from .cli import main

main()
