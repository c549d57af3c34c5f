"""The documents that are written from the catalogue (``python -m docs.health_checks`` writes them)."""
