"""Timelines: what happens to a node over hours, played on a virtual clock through the agent's own parsers and checks."""
