"""The platform's API: requests, responses and rate limits. Nothing here counts."""
