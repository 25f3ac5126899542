"""The few modules an edit may insert."""

from gradmend.layers.activations import (
    REPLACEMENTS,
    TAILORED,
    CentredSigmoid,
    ScaledSigmoid,
    Shifted,
    Tailored,
)
from gradmend.layers.cells import CELLS, LAYERS, HiddenLSTM
from gradmend.layers.inputs import Clamped, Imputed, Standardised
from gradmend.layers.norms import WeightStandardised, norm_layer
from gradmend.layers.outputs import FOLLOWERS, FiniteGradient, Rescaled
from gradmend.layers.residuals import ReZero
from gradmend.layers.wrappers import Followed, Wrapped

__all__ = [
    "CELLS",
    "FOLLOWERS",
    "LAYERS",
    "REPLACEMENTS",
    "TAILORED",
    "CentredSigmoid",
    "Clamped",
    "FiniteGradient",
    "Followed",
    "HiddenLSTM",
    "Imputed",
    "ReZero",
    "Rescaled",
    "ScaledSigmoid",
    "Shifted",
    "Standardised",
    "Tailored",
    "WeightStandardised",
    "Wrapped",
    "norm_layer",
]
