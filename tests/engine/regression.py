"""A tiny regression on which the effect of every remedy is known."""

from typing import Any

import torch
from torch import Tensor, nn

from gradmend.engine.data import TrialData, trial_data
from gradmend.engine.trial import Deadline, Track, Trial
from gradmend.probe.batch import Feeder
from gradmend.records.prescription import Change, Edit, Prescription

mse = nn.functional.mse_loss


def batches(count: int = 6, size: int = 8, noise: float = 0.0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    truth = torch.randn(5, 1, generator=generator)
    found = []
    for _ in range(count):
        x = torch.randn(size, 5, generator=generator)
        found.append((x, x @ truth + noise * torch.randn(size, 1, generator=generator)))
    return found


def linear(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))


def rate(factor: float, name: str = "", change: Change = Change.OPTIMIZER) -> Prescription:
    """A fake remedy: nothing but another learning rate, of any alleged size of change."""
    return Prescription(
        edits=(Edit(kind="scale_learning_rate", args={"factor": factor}),),
        remedies=(name or f"rate-times-{factor:g}",),
        changes=(change,),
    )


def trial(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    steps: int = 24,
    data: TrialData | None = None,
    deadline: Deadline | None = None,
    loss: Any = mse,
    **more: Any,
) -> Trial:
    deadline = deadline or Deadline(steps=10**9)
    track = Track(
        model=model,
        optimizer=optimizer,
        feeder=Feeder(loss_fn=loss),
        data=data or trial_data(batches(), None),
        deadline=deadline,
        tell=more.get("tell", lambda text, share: None),
    )
    return Trial(trainer=track, steps=steps, deadline=deadline, **more)
