"""The service: knows HTTP and OData, no SQL."""
