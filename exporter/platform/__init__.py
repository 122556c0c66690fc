"""What the platform says. Nothing here counts."""
