"""Search parameters and the queries made of them."""
