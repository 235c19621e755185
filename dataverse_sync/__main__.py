"""``python -m dataverse_sync``, and the console script.

The program takes a moment to be imported; a stop meanwhile ends it as one later does.
"""

import gc
import os
from contextlib import suppress
from types import FrameType

from dataverse_sync.interrupts import handle_stops


def _stop(_signal: int, _frame: FrameType | None) -> None:
    """End at once: nothing is open yet, and an exception would surface in some library's import."""
    with suppress(OSError):  # nobody may be reading
        os.write(2, b"interrupted\n")
    os._exit(1)


def main() -> None:
    """Import the program, and run it."""
    handle_stops(_stop)  # until the command is imported
    gc.disable()  # an import makes no garbage; not to look for any saves 20 % of the start of sync
    from dataverse_sync.cli import entry_point

    try:
        entry_point()
    except KeyboardInterrupt:
        raise SystemExit("interrupted") from None  # said on standard error, with status 1


if __name__ == "__main__":
    main()
