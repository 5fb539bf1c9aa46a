"""Access to PostgreSQL: connections, streams of rows, the schema."""
