"""The `toka` program."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and end with its exit code."""
    from toka_cli.app import main as app_main

    sys.exit(app_main())


if __name__ == "__main__":
    main()
