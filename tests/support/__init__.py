"""Databases, daemons, clients, keys and sample data that several tests share."""
