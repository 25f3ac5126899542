"""The flow: diagnose, prescribe, trial, and the session that ties them together."""
