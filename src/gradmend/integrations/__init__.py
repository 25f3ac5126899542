"""Ways into somebody else's program: running a script, waiting for an import."""
