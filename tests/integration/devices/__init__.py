"""Quarantine of single devices on the real API server."""
