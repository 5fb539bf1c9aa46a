"""What HTTP is: requests, routes, handlers, errors, streams."""
