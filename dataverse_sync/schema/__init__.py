"""What is locked: neither HTTP nor SQL, but for discovery, which asks the client."""
