"""An embedded database and a made-up fleet to try the API."""
