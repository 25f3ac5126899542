"""A run on disk: appended to while it trains, readable meanwhile, bounded however long it is."""
