"""``python -m dataverse_sync``.

The program takes a moment to be imported; a stop meanwhile ends it as one later does.
"""

import signal


def main() -> None:
    """Import the program, and run it."""
    try:
        for name in ("SIGTERM", "SIGBREAK"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.default_int_handler)
        from dataverse_sync.cli import entry_point

        entry_point()
    except KeyboardInterrupt:
        raise SystemExit("interrupted") from None  # said on standard error, with status 1


if __name__ == "__main__":
    main()
