"""What each operation of the autograd graph is called, and which cause it is booked under."""

from __future__ import annotations

import re
from functools import cache

ACTIVATIONS = {
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Relu": "relu",
    "LeakyRelu": "leaky_relu",
    "PreluKernel": "prelu",
    "Gelu": "gelu",
    "Silu": "silu",
    "Mish": "mish",
    "Elu": "elu",
    "Celu": "celu",
    "Softplus": "softplus",
    "Hardtanh": "hardtanh",
    "Hardsigmoid": "hardsigmoid",
    "Hardswish": "hardswish",
    "LogSigmoid": "logsigmoid",
    "Erf": "erf",
    "Sin": "sin",
    "Cos": "cos",
    "RreluWithNoise": "rrelu",
    "Threshold": "threshold",
    "Softshrink": "softshrink",
    "Hardshrink": "hardshrink",
}
"""Backward nodes of elementwise activations, by the name torch gives them."""

ACTIVATION_CALLS = frozenset(
    {"sigmoid", "tanh", "relu", "relu6", "leaky_relu", "prelu", "gelu", "silu", "mish", "elu"}
    | {"selu", "celu", "softplus", "softsign", "hardtanh", "hardsigmoid", "hardswish"}
    | {"logsigmoid", "tanhshrink", "softshrink", "hardshrink", "threshold", "rrelu", "glu"}
)
"""Functions whose every node is booked as activation derivative, composite ones included."""

_CALLS = {
    "dropout": "dropout",
    "dropout1d": "dropout",
    "dropout2d": "dropout",
    "dropout3d": "dropout",
    "alpha_dropout": "dropout",
    "feature_alpha_dropout": "dropout",
    "batch_norm": "normalisation",
    "layer_norm": "normalisation",
    "group_norm": "normalisation",
    "instance_norm": "normalisation",
    "rms_norm": "normalisation",
    "normalize": "normalisation",
    "local_response_norm": "normalisation",
    "softmax": "attention-softmax",
    "scaled_dot_product_attention": "attention-softmax",
}

_NODES: tuple[tuple[str, str], ...] = (
    (
        r".*(BatchNorm|LayerNorm|GroupNorm|RmsNorm|InstanceNorm|LinalgVectorNorm|^Norm)",
        "normalisation",
    ),
    (r".*(ScaledDotProduct|Softmax|FlashAttention|EfficientAttention)", "attention-softmax"),
    (r".*(Rnn|Lstm|Gru)", "recurrence"),
    (r".*Dropout", "dropout"),
    (r".*(Pool|Upsample|Interpolate)", "pooling"),
    (r"^(Add|Sub|Cat|Stack|Expand|Repeat|AccumulateGrad)$", "joins"),
    (r"^(ToCopy|Copy|FakeQuantize)", "number-format"),
    (r"^(Mul|Div|Neg|Rsub|Pow|Sqrt|Rsqrt|Mean|Sum)", "scaling"),
)

_TRANSPARENT = re.compile(
    r"^(View|UnsafeView|ReshapeAlias|Transpose|T|Permute|Squeeze|Unsqueeze|Alias|Clone"
    r"|AsStrided|Detach|Unbind|Split|SplitWithSizes|Chunk|Select|Slice|Movedim|Contiguous|Swapaxes"
    r"|Flatten|Unflatten|Reshape)$"
)

LINEAR_MAPS = re.compile(r"^(Addmm|Mm|Bmm|Baddbmm|Linear|MkldnnLinear|Addbmm|Mv|Addmv|Einsum)$")
CONVOLUTIONS = re.compile(
    r"^(Convolution|ConvolutionOverrideable|Mkldnn\w*Convolution|SlowConv\w+)$"
)


@cache
def short(node_name: str) -> str:
    """``SigmoidBackward0`` -> ``Sigmoid``; ``torch::autograd::CopySlices`` -> ``CopySlices``."""
    return re.sub(r"(Backward\d*|BackwardAutograd\w*)$", "", node_name.rsplit("::", 1)[-1])


def is_transparent(kind: str) -> bool:
    """Whether an operation only rearranges its input, so that statistics pass through it."""
    return bool(_TRANSPARENT.match(kind))


def is_activation(kind: str) -> bool:
    """Whether an operation is an elementwise activation, whose node yields phi' itself."""
    return kind in ACTIVATIONS


def operation_name(kind: str, call: str | None) -> str:
    """The name people use: the called function's where it ran one node, else the node's."""
    if call and not call.startswith("_"):
        return call.rstrip("_")
    if kind in ACTIVATIONS:
        return ACTIVATIONS[kind]
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind).lower()


def cause_of(kind: str, call: str | None, *, has_parameter: bool) -> str:
    """The ledger's cause of an operation.

    Args:
        kind: Short node name.
        call: Name of the function the user (or a module) called, where it was seen.
        has_parameter: Whether a parameter enters the operation directly.
    """
    name = (call or "").rstrip("_")
    if is_activation(kind) or name in ACTIVATION_CALLS:
        return "activation-derivative"
    if name in _CALLS:
        return _CALLS[name]
    if LINEAR_MAPS.match(kind) or CONVOLUTIONS.match(kind):
        return "weights" if has_parameter else "products"
    for pattern, cause in _NODES:
        if re.match(pattern, kind):
            return cause
    return "other"
