"""What to change in the source for each fault that no edit of a model reaches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradmend.records.finding import Finding
from gradmend.records.prescription import Advice


@dataclass(frozen=True, slots=True)
class SourceChange:
    """A fault's lines as they are, or of their kind, and mended."""

    text: str
    before: str
    after: str


GRAPH = {
    "detached-parameters": SourceChange(
        "hand the tensor on as it is: detach(), .data, .item() and numpy() end its graph",
        "h = self.encoder(x).detach()\nreturn self.head(h)",
        "h = self.encoder(x)\nreturn self.head(h)",
    ),
    "no-grad-forward": SourceChange(
        "record the graph in training: take the block off, or freeze the layers if they stay",
        "with torch.no_grad():\n    h = self.encoder(x)",
        "h = self.encoder(x)",
    ),
    "reentrant-checkpoint": SourceChange(
        "the reentrant checkpoint gives no gradient where no input requires one",
        "h = checkpoint(self.block, x, use_reentrant=True)",
        "h = checkpoint(self.block, x, use_reentrant=False)",
    ),
    "non-differentiable-operation": SourceChange(
        "pass the gradient straight through an operation without a derivative",
        "q = torch.round(h)",
        "q = h + (torch.round(h) - h).detach()",
    ),
    "overwritten-weights": SourceChange(
        "draw weights once, in __init__: whatever writes them between steps undoes what a step"
        " learned",
        "def forward(self, x):\n    nn.init.xavier_uniform_(self.layer.weight)\n"
        "    return self.layer(x)",
        "def __init__(self):\n    ...\n    nn.init.xavier_uniform_(self.layer.weight)\n\n"
        "def forward(self, x):\n    return self.layer(x)",
    ),
    "truncated-backpropagation": SourceChange(
        "detach the state between batches only, not between time steps",
        "for x_t in x.unbind(1):\n    h = self.cell(x_t, h.detach())",
        "h = h.detach()\nfor x_t in x.unbind(1):\n    h = self.cell(x_t, h)",
    ),
}

ARITHMETIC = {
    "square-root-at-zero": SourceChange(
        "the slope of a root at zero is infinite: keep its argument above zero, inside the root",
        "d = torch.sqrt((a - b).square().sum(-1))",
        "d = torch.sqrt((a - b).square().sum(-1) + 1e-12)",
    ),
    "hidden-branch-nan": SourceChange(
        "torch.where computes both branches, backward too: make the argument safe before the"
        " operation, not the result after it",
        "y = torch.where(x > 0, torch.log(x), 0.0)",
        "safe = torch.where(x > 0, x, 1.0)\ny = torch.where(x > 0, torch.log(safe), 0.0)",
    ),
    "logarithm-of-zero": SourceChange(
        "keep the argument above zero, or compute the logarithm of the probability at once",
        "loss = -torch.log(torch.softmax(z, dim=1)).gather(1, y)",
        "loss = -torch.log_softmax(z, dim=1).gather(1, y)  # else: torch.log(p.clamp_min(1e-8))",
    ),
    "division-by-zero": SourceChange(
        "keep the divisor away from zero",
        "z = (x - x.mean(0)) / x.std(0)",
        "z = (x - x.mean(0)) / (x.std(0) + 1e-6)",
    ),
    "exponential-overflow": SourceChange(
        "hold the argument within the format's range (exp(88) is the last in float32), or take"
        " softplus or logsumexp",
        "std = torch.exp(0.5 * log_var)",
        "std = torch.exp(0.5 * log_var.clamp(-30, 20))",
    ),
    "half-precision-overflow": SourceChange(
        "float16 ends at 65504: take bfloat16, which has float32's range, or keep this part in"
        " float32",
        "with torch.autocast('cuda', dtype=torch.float16):",
        "with torch.autocast('cuda', dtype=torch.bfloat16):",
    ),
    "fully-masked-row": SourceChange(
        "the softmax of minus infinity alone is NaN: fill with a large negative number, and leave"
        " samples out that are all padding",
        "scores = scores.masked_fill(mask, float('-inf'))",
        "scores = scores.masked_fill(mask, torch.finfo(scores.dtype).min)",
    ),
    "empty-reduction": SourceChange(
        "the mean of nothing is 0 / 0: count first, or skip a batch without any target",
        "loss = losses[mask].mean()",
        "loss = losses[mask].sum() / mask.sum().clamp_min(1)",
    ),
    "infeasible-ctc": SourceChange(
        "a target longer than its input has no alignment: its loss is infinite",
        "loss = F.ctc_loss(log_probs, targets, input_lengths, target_lengths)",
        "loss = F.ctc_loss(log_probs, targets, input_lengths, target_lengths, zero_infinity=True)",
    ),
}

LOSS = {
    "clamped-loss": SourceChange(
        "a clamp has no gradient beyond its limits: clip the gradient, as Huber's loss does",
        "loss = (output - y).clamp(-1, 1).square().mean()",
        "loss = F.smooth_l1_loss(output, y)",
    ),
    "loss-unfit-for-target": SourceChange(
        "take the loss that fits the targets: cross_entropy for class numbers with one output per"
        " class, binary_cross_entropy_with_logits for zeros and ones, mse_loss for numbers",
        "loss = F.mse_loss(output, y)  # y: class numbers",
        "loss = F.cross_entropy(output, y)",
    ),
    "saturated-adversarial-loss": SourceChange(
        "let the generator maximise log D(G(z)): its gradient does not vanish where the"
        " discriminator is sure (Goodfellow et al. 2014)",
        "loss_g = torch.log(1 - torch.sigmoid(critic(fake))).mean()",
        "loss_g = F.softplus(-critic(fake)).mean()",
    ),
}

DATA = {
    "constant-input": SourceChange(
        "look at what the loader makes of the data: the samples of a batch are all the same",
        "x = images // 255  # all zeros: a whole-number division",
        "x = images / 255",
    ),
    "constant-target": SourceChange(
        "look at how the labels are read, and shuffle: all samples of a batch have the same target",
        "loader = DataLoader(data, batch_size=64)",
        "loader = DataLoader(data, batch_size=64, shuffle=True)",
    ),
    "signalless-labels": SourceChange(
        "see whether each label belongs to its input: shuffle both by the same order",
        "x = x[torch.randperm(len(x))]\ny = y[torch.randperm(len(y))]",
        "order = torch.randperm(len(x))\nx, y = x[order], y[order]",
    ),
    "outlier-batch": SourceChange(
        "look at that batch's samples, and hold the inputs within what the data usually have",
        "x, y = batch",
        "x, y = batch\nx = x.clamp(mean - 10 * std, mean + 10 * std)",
    ),
}


def advise(
    remedy: str,
    findings: tuple[Finding, ...],
    changes: dict[str, SourceChange],
    source: str | None = None,
) -> Iterator[Advice]:
    """One shown change of source for each finding, with its line where that is known.

    Args:
        remedy: Name of the one that speaks.
        findings: What it treats.
        changes: By rule.
        source: The line, where a finding has none of its own.
    """
    for finding in findings:
        change = changes.get(finding.name)
        if change is not None:
            yield Advice(
                remedy=remedy,
                finding=finding.name,
                text=change.text,
                before=change.before,
                after=change.after,
                source=finding.source or source,
            )
