"""An activation between layers, where a softmax stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Advice, Change, Edit, Prediction, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.outlets import module_of

ACTIVATIONS = {
    "relu": "ReLU", "gelu": "GELU", "silu": "SiLU", "tanh": "Tanh", "elu": "ELU", "selu": "SELU",
    "leaky_relu": "LeakyReLU",
}  # fmt: skip


@remedy(treats=["hidden-softmax"], changes=[Change.ACTIVATION])
def replace_hidden_softmax(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal | Advice]:
    """Put the network's own activation in the place of softmaxes between layers.

    What it does:
        Every softmax module that a layer with weights reads becomes the activation that the rest
        of the network uses most, or ReLU where it has none.

    Why it should work:
        A softmax over n units has a derivative of about 1/n; an activation has one of about 1,
        and its units do not compete.

    What it predicts:
        The model's gradient keeps its size within three decades.

    When it refuses:
        A softmax is called as a function: the source must be changed.

    What it costs:
        The function class changes; trained weights behind the softmax lose their sense.

    References:
        Goodfellow, Bengio, Courville 2016, section 6.2.2.3.
    """
    blamed = {module for finding in findings for module in finding.modules}
    guilty = [
        op
        for op in trace.operations
        if op.name in ("softmax", "_softmax")
        and op.module in blamed
        and any(trace.operations[at].weights for at in trace.readers.get(op.id, ()))
    ]
    paths = [module_of(trace, op) for op in guilty]
    used = Counter(
        ACTIVATIONS[op.activation.function]
        for op in trace.activations
        if op.activation and op.activation.function in ACTIVATIONS
    )
    new = used.most_common(1)[0][0] if used else "ReLU"
    if not guilty or None in paths:
        yield Refusal(
            remedy="replace-hidden-softmax",
            finding=findings[0].name,
            reason="a softmax between the layers is called as a function",
        )
        yield Advice(
            remedy="replace-hidden-softmax",
            finding=findings[0].name,
            text="a softmax is for outputs and attention: use an activation between layers",
            before="h = torch.softmax(self.layer(h), dim=-1)",
            after="h = torch.relu(self.layer(h))",
            source=findings[0].source,
        )
        return
    yield Prescription(
        edits=(
            Edit(
                kind="replace_module",
                targets=tuple(dict.fromkeys(path for path in paths if path)),
                args={"module": new},
            ),
        ),
        predictions=(Prediction.gradient_kept(3),),
        changes=(Change.ACTIVATION,),
        reason=f"{len(guilty)} softmax(es) between layers become {new}",
    )
