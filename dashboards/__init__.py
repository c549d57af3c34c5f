"""The Grafana dashboard: written in Python, committed as JSON (``python -m dashboards`` writes it)."""
