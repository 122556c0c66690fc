"""Ways to run it, and to release it."""
