"""One file, one command: its options, its work, its output."""
