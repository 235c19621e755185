"""The way of the pages, from the service to the copy."""
