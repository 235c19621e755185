"""Handle the signals that stop the program: Ctrl-C, and a stop by the system."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

_STOPS = ("SIGINT", "SIGTERM", "SIGBREAK")


def handle_stops(handler: Callable[[int, FrameType | None], object]) -> None:
    """Call this handler on every stop signal that is not ignored; main thread only."""
    for name in _STOPS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)
