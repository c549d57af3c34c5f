"""The node agent: reads this machine, checks it, exports it and reports it."""
