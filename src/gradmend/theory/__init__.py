"""Closed forms and mean-field maps of deep networks at initialisation; NumPy at most."""
