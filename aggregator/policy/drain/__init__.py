"""Draining, on paper: what a plan is, who belongs together, what users say about it. Pure."""
