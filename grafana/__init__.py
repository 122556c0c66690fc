"""The dashboards: what they show is written here in Python, what Grafana reads is made of it (see README.md)."""
