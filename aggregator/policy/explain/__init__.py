"""Why a node stands as it does, what was done, what comes next, how to stop it. Pure."""
