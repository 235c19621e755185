"""How answers reach a client: the server, sign-in, limits, faults on order."""
