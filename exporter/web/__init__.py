"""The HTTP side: routes, content negotiation, the status page and the server with its limits."""
