"""One file per cause: a pure function from a Trace to Findings, with its page and its cases."""
