"""The environment of ``demo`` and ``emulator``: made-up data."""
