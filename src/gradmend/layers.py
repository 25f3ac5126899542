"""The few modules an edit may insert."""
