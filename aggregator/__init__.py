"""The aggregator: pictures the fleet, decides, acts on the cluster and feeds the scheduler."""
