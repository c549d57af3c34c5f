"""Prometheus, Alertmanager and their tools for the tests, and a made-up fleet for them to look at."""
