"""Frozen records: what is measured, found, prescribed and proven. Standard library only."""
