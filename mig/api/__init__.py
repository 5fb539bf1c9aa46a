"""The resources of the API, and the routes to them."""
