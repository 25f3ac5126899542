"""Reads a model and leaves no mark: shadows, spans, the autograd graph, the books."""
