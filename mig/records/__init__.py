"""What is served: rows of the database as documents of the API."""
