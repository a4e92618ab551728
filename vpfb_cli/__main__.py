"""`vpfb` and `python -m vpfb_cli`.

All imports that take time are inside `main`, after the signals: an interruption in the first tenths of a second has to
end like any other.
"""

from __future__ import annotations

import signal


def main() -> None:
    """The console script."""
    # A signal waits from here until it is handled, which `command_line.main` does once it is imported.
    waiting = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waiting)
    from vpfb_cli import command_line

    command_line.main(before)


if __name__ == "__main__":
    main()
