"""One file per consumer of scores, each with its own rule for missing and stale data."""
