"""The aggregator's HTTP side over a real socket."""
