"""What several tests share: databases, daemons, clients, keys and made-up data."""
