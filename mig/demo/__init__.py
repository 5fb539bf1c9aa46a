"""A database and a fleet to try the API with."""
