"""`make demo`: the main job on one machine, without a cluster and without a GPU."""
