"""Moves pods off nodes: looks, plans, asks, waits and evicts, within its budget, and never by force."""
