"""What agent and aggregator agree on: the report stream and the shared words. Imports nothing else of ours."""
