"""Pure decisions: (fleet, incidents, config, now) → intents. No I/O, no clock, no randomness."""
