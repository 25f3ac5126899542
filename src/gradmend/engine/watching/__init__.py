"""Watching real training: listens to it, measures within a budget, judges as it goes."""
