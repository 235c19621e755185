"""``python -m dataverse_sync``."""

from dataverse_sync.cli import entry_point as main

if __name__ == "__main__":
    main()
