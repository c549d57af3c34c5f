"""The score model: what is known of a node → one number a scheduler can add up. Pure."""
