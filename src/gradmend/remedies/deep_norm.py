"""Let the skips of a deep post-norm transformer count more than its branches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from gradmend.records.finding import Finding
from gradmend.records.layout import ModuleFacts
from gradmend.records.prescription import Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.branches import Ending, branch_endings
from gradmend.theory.stream import norms_on_the_stream


@remedy(
    treats=["post-norm-without-warm-up"],
    changes=[Change.INITIALISATION, Change.RESIDUAL, Change.OPTIMIZER],
)
def deep_norm(findings: tuple[Finding, ...], trace: Trace) -> Iterator[Prescription | Refusal]:
    """Turn LN(x + f(x)) into LN(alpha x + f(x)), with smaller weights in f: DeepNorm.

    What it does:
        In N layers of torch's own post-norm encoder, alpha = (2 N)^(1/4), and the weights of both
        feed-forward layers, of the values and of the output projection are divided by (8 N)^(1/4);
        in decoders, and in both together, by the paper's figures for them. In blocks written by
        hand the same ratio is set at the layer that each branch ends in: LN(alpha x + f(x)) is
        LN(x + f(x) / alpha). Second, with an adaptive optimizer, the same at (8 N)^(-1/4) of the
        learning rate.

    Why it should work:
        What one step changes in the model's output is then bounded by a constant, whatever the
        depth: the branches cannot outgrow the stream in the first steps, as they do without a
        warm-up. A step of Adam is of the rate at every entry: weights that are made smaller need a
        smaller one to turn no faster than before. With 200 blocks by hand the loss was 1.94 after
        20 steps at 3e-4 (ten classes of digits), and with 200 of torch's layers 2.30 at 1e-3.

    What it predicts:
        Nothing that one look can check: post-norm is balanced before the first step. The trial
        decides.

    When it refuses:
        The layers are derived from torch's, shared or frozen, and the branches of those written by
        hand do not end in layers of their own.

    What it costs:
        Nothing at run time. Names of parameters stay (by hand: one wrapper a branch). Very strong
        skips may learn more slowly than pre-norm. A lower rate is one for the whole model.

    References:
        Wang et al. 2022 (DeepNet), table of alpha and beta.
    """
    encoders = _layers(trace, "TransformerEncoderLayer")
    decoders = _layers(trace, "TransformerDecoderLayer")
    norms = norms_on_the_stream(trace)
    held = tuple(f"{m.path}." for m in (*encoders, *decoders))
    inside = bool(held) and all(op.module.startswith(held) for op in norms)
    frozen = {p.name for p in trace.parameters if not p.trainable}
    if inside and not any(name.startswith(held) for name in frozen):
        yield from _at_both_rates(
            trace, _of_layers(trace, encoders, decoders), len(encoders) + len(decoders)
        )
        return
    sums = {op.upstream[0] for op in norms if op.upstream}
    endings = [e for e in branch_endings(trace) if e.total in sums and e.plain and e.exact]
    if not inside and len(endings) >= 2 and 5 * len(endings) >= 4 * len(norms):
        yield from _at_both_rates(trace, _by_hand(endings), max(1, len(endings) // 2))
        return
    yield Refusal(
        remedy="deep-norm",
        finding=findings[0].name if findings else "",
        reason="neither layers of torch's own, all trainable, nor branches that end in layers",
    )


def _at_both_rates(trace: Trace, found: Prescription, layers: int) -> Iterator[Prescription]:
    """At the rate as it is, and at one that is smaller by as much as the weights are."""
    yield found
    optimizer = trace.optimizer
    rate = optimizer.learning_rate if optimizer is not None else None
    if optimizer is None or not optimizer.adaptive or not rate:
        return
    factor = (8 * layers) ** -0.25
    yield replace(
        found,
        edits=(*found.edits, Edit(kind="scale_learning_rate", args={"factor": factor})),
        changes=(*found.changes, Change.OPTIMIZER),
        reason=f"{found.reason}, at a learning rate of {rate * factor:.2g}",
    )


def _layers(trace: Trace, kind: str) -> list[ModuleFacts]:
    return [
        m
        for m in trace.modules
        if m.kind == kind
        and m.standard
        and m.settings.get("norm_first") is False
        and m.calls == m.uses == 1
    ]


def _of_layers(
    trace: Trace, encoders: list[ModuleFacts], decoders: list[ModuleFacts]
) -> Prescription:
    n, m = len(encoders), len(decoders)
    edits: list[Edit] = []
    structure: list[Edit] = []
    for layers, alpha, beta in (
        (encoders, *_figures_of_encoder(n, m)),
        (decoders, (3 * m) ** 0.25, (12 * max(1, m)) ** -0.25),
    ):
        if not layers:
            continue
        names, rows = _weights(trace, layers, cross=layers is decoders)
        edits.append(
            Edit(
                kind="scale_rows",
                targets=names,
                args={"factors": [beta] * len(names), "rows": rows},
            )
        )
        structure.append(
            Edit(kind="deep_norm", targets=tuple(x.path for x in layers), args={"alpha": alpha})
        )
    return Prescription(
        edits=(*edits, *structure),
        changes=(Change.INITIALISATION, Change.RESIDUAL),
        reason=f"{n + m} post-norm layers become DeepNorm's",
    )


def _figures_of_encoder(n: int, m: int) -> tuple[float, float]:
    """(alpha, beta) of N encoder layers beside M decoder layers."""
    if not m:
        return (2 * n) ** 0.25, (8 * max(1, n)) ** -0.25
    both = (n**4 * m) ** (1 / 16)
    return 0.81 * both, 0.87 / max(both, 1.0)


def _weights(
    trace: Trace, layers: list[ModuleFacts], cross: bool
) -> tuple[tuple[str, ...], list[list[int]]]:
    """Feed-forward layers, values and output projections, with the rows that are meant."""
    names: list[str] = []
    rows: list[list[int]] = []
    for layer in layers:
        width = int(trace.module_at[f"{layer.path}.linear2"].settings["out_features"])  # type: ignore[arg-type]
        for part in ("linear1", "linear2"):
            names.append(f"{layer.path}.{part}.weight")
            rows.append([])
        for part in ("self_attn", *(("multihead_attn",) if cross else ())):
            names.append(f"{layer.path}.{part}.in_proj_weight")
            rows.append([2 * width, 3 * width])
            names.append(f"{layer.path}.{part}.out_proj.weight")
            rows.append([])
    return tuple(names), rows


def _by_hand(endings: list[Ending]) -> Prescription:
    layers = max(1, len(endings) // 2)
    alpha, beta = (2 * layers) ** 0.25, (8 * layers) ** -0.25
    names = tuple(name for ending in endings for name in ending.parameters)
    return Prescription(
        edits=(
            # Both layers of a branch by beta each: in product what its last one by beta squared is.
            Edit(kind="scale_weights", targets=names, args={"factors": [beta**2] * len(names)}),
            Edit(
                kind="multiply_output",
                targets=tuple(ending.module for ending in endings),
                args={"factors": [1.0 / alpha] * len(endings)},
            ),
        ),
        changes=(Change.INITIALISATION, Change.RESIDUAL),
        reason=f"{len(endings)} branches count 1/{alpha:.3g} of their post-norm stream (DeepNorm)",
    )
