"""``eigengrad``, and ``python -m eigengrad_lab``."""

import os
import sys
from collections.abc import Sequence

INTERRUPTED, READER_LEFT = 130, 141  # as a shell says of SIGINT and SIGPIPE


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command of ``arguments``, the process's own by default.

    Ctrl-C while modules load, and a reader that has left (``| head``), end it in silence.
    """
    try:
        from eigengrad_lab.cli import parser

        try:
            parser.main(arguments)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what the interpreter flushes at its end
        sys.exit(READER_LEFT)


if __name__ == "__main__":
    main()
