"""The `toka` program."""

from __future__ import annotations

import gc
import os
import sys

from toka_cli.front import answer


def main() -> None:
    """Run the command line and end with its exit code."""
    # What is imported stays: to look for garbage among it takes a twentieth of the start.
    gc.disable()
    try:
        code = answer(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    if code is not None:
        # Everything is written and nothing is open: taking the interpreter down in order would cost as much as the answer.
        os._exit(code)
    from toka_cli.app import main as app_main

    gc.freeze()
    gc.enable()
    sys.exit(app_main())


if __name__ == "__main__":
    main()
