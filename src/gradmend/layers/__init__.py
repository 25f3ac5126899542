"""The few modules an edit may insert."""

from gradmend.layers.activations import REPLACEMENTS, CentredSigmoid
from gradmend.layers.residuals import ReZero
from gradmend.layers.wrappers import Followed, Standardised, Wrapped

__all__ = ["REPLACEMENTS", "CentredSigmoid", "Followed", "ReZero", "Standardised", "Wrapped"]
