"""The version of the program: read by the packaging, sent as the User-Agent."""

__version__ = "0.2.0"
