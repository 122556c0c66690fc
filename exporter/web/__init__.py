"""The HTTP server: routes, content negotiation and the status page."""
