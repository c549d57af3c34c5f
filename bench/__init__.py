"""Every performance claim of the README, as one command each, printed as a ratio against its floor."""
