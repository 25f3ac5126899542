"""What an edit may hang onto an optimizer: called before and after each of its steps."""

from gradmend.controls.clip_by_norm import ClipByNorm
from gradmend.controls.clip_by_percentile import ClipByPercentile
from gradmend.controls.clip_by_value import ClipByValue
from gradmend.controls.clip_by_z_score import ClipByZScore
from gradmend.controls.clip_per_tensor import ClipPerTensor
from gradmend.controls.clip_per_unit import ClipPerUnit
from gradmend.controls.control import Control, hang
from gradmend.controls.layer_rates import LayerRates
from gradmend.controls.lift_small_gradients import LiftSmallGradients
from gradmend.controls.loss_scale import LossScale
from gradmend.controls.warm_up import WarmUp

__all__ = [
    "ClipByNorm",
    "ClipByPercentile",
    "ClipByValue",
    "ClipByZScore",
    "ClipPerTensor",
    "ClipPerUnit",
    "Control",
    "LayerRates",
    "LiftSmallGradients",
    "LossScale",
    "WarmUp",
    "hang",
]
