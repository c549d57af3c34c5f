"""Replays a recorded workload on a recorded fleet, and tells how much of the GPUs each placement policy can hand out."""
