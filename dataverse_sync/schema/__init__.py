"""The locked schema: no HTTP and no SQL, but for ``discovery``, which asks the client."""
