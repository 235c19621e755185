"""``python -m dataverse_sync``.

The program takes a moment to be imported; a stop meanwhile ends it as one later does.
"""

import gc
import os
import signal
from collections.abc import Callable
from types import FrameType

_ROWS_BETWEEN_LOOKS = 10_000  # of the garbage collector: rows are tuples, and never garbage
_STOPS = ("SIGINT", "SIGTERM", "SIGBREAK")


def _stop(_signal: int, _frame: FrameType | None) -> None:
    """End at once: nothing is open yet, and an exception would surface in some library's import."""
    os.write(2, b"interrupted\n")
    os._exit(1)


def _listen(handler: Callable[[int, FrameType | None], object]) -> None:
    for name in _STOPS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def main() -> None:
    """Import the program, and run it."""
    _listen(_stop)
    gc.disable()  # nothing that an import makes is garbage: looking at it again and again is slow
    from dataverse_sync.cli import entry_point

    gc.freeze()
    gc.enable()
    gc.set_threshold(_ROWS_BETWEEN_LOOKS, 10, 10)
    _listen(signal.default_int_handler)
    try:
        entry_point()
    except KeyboardInterrupt:
        raise SystemExit("interrupted") from None  # said on standard error, with status 1


if __name__ == "__main__":
    main()
