"""What watches a training in ``overhead.py``, and the process that trains under one watcher.

``python benchmarks/_monitors.py NET MONITOR FOLDER`` takes orders, one JSON object a line, on
standard input and answers each on standard output.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _nets import NETS, Net
from torch import Tensor, nn
from torch.optim import Optimizer

import gradmend
from gradmend.engine.watching.schedule import FREE_LISTENING, FREE_SECONDS


class Monitor:
    """Watches nothing: a plain step."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, folder: Path) -> None:
        self.parameters = list(model.parameters())

    def gradients(self) -> None:
        """The gradients are there, the step is not yet made."""

    def stepped(self, loss: Tensor, step: int) -> None:
        """The step is over."""

    def settle(self) -> None:
        """Write what is queued; the clock is still running."""

    def steady(self) -> None:
        """What comes from now on is measured."""

    def pause(self) -> None:
        """Leave the steps that come alone, as if it had never been there."""

    def resume(self, seconds: float) -> None:
        """Watch again, after so long a pause."""

    def account(self) -> dict[str, Any]:
        """What it says that it cost so far."""
        return {}

    def close(self) -> None:
        """The training is over."""


class ForeachNorm(Monitor):
    """``torch._foreach_norm`` of all gradients, fetched at once."""

    def gradients(self) -> None:
        grads = [p.grad for p in self.parameters if p.grad is not None]
        torch.stack(torch._foreach_norm(grads)).tolist()


class ClipNorm(Monitor):
    """``clip_grad_norm_``, and the norm fetched."""

    def gradients(self) -> None:
        nn.utils.clip_grad_norm_(self.parameters, 1e9).item()


class NaiveItem(Monitor):
    """Six statistics of every gradient, each fetched by ``.item()``."""

    def gradients(self) -> None:
        self.last = [
            (
                g.mean().item(),
                g.std().item(),
                g.min().item(),
                g.max().item(),
                g.norm().item(),
                (g == 0).float().mean().item(),
            )
            for p in self.parameters
            if (g := p.grad) is not None
        ]


class TensorBoard(Monitor):
    """TensorBoard histograms of every gradient and weight at every step."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.named = list(model.named_parameters())
        self.writer: Any = SummaryWriter(str(folder))
        self.step = 0

    def gradients(self) -> None:
        for name, parameter in self.named:
            self.writer.add_histogram(name, parameter, self.step)
            self.writer.add_histogram(f"{name}.grad", parameter.grad, self.step)
        self.step += 1

    def settle(self) -> None:
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class WandbWatch(Monitor):
    """``wandb.watch(log="all")``, offline; the loss is logged at every step."""

    every = 1

    def __init__(self, model: nn.Module, optimizer: Optimizer, folder: Path) -> None:
        import wandb  # type: ignore[import-not-found,unused-ignore]

        quiet = wandb.Settings(silent=True, console="off", x_disable_stats=True)
        self.run = wandb.init(mode="offline", dir=str(folder), project="overhead", settings=quiet)
        self.model = model
        self.resume(0.0)

    def pause(self) -> None:
        self.run.unwatch(self.model)

    def resume(self, seconds: float) -> None:
        self.run.watch(self.model, log="all", log_freq=self.every)

    def stepped(self, loss: Tensor, step: int) -> None:
        self.run.log({"loss": loss.item()})

    def close(self) -> None:
        self.run.finish()


class WandbWatch10(WandbWatch):
    """The same at every tenth step."""

    every = 10


class Gradmend(Monitor):
    """``gradmend.watch`` around the whole training."""

    budget: str | float = "2%"
    looks = True
    to_disk = False

    def __init__(self, model: nn.Module, optimizer: Optimizer, folder: Path) -> None:
        run = folder / "run" if self.to_disk else None
        self.watch = gradmend.watch(
            model, optimizer, run=run, budget=self.budget, looks=self.looks
        ).__enter__()
        self.schedule = self.watch.observer.schedule
        self.times: Counter[str] = Counter()
        took = self.schedule.took

        def counted(name: str, step: int, seconds: float, *, once: bool = False) -> None:
            self.times[name] += 1
            took(name, step, seconds, once=once)

        self.schedule.took = counted  # type: ignore[method-assign]

    def steady(self) -> None:
        """Go to where a long run is, which is minutes away.

        What listening may cost for free is spent. It is half of the budget so far, as later on:
        the time that takes has passed. No tier has any credit left of that which a run gets once,
        nor debts; each has half the price of its next measurement, as at any random moment.
        """
        schedule = self.schedule
        if schedule.budget == float("inf"):
            return
        missing = max(0.0, FREE_LISTENING * FREE_SECONDS - schedule.base)
        schedule.heard += round(missing * schedule.heard / schedule.base)
        schedule.base += missing
        self.watch.observer.own_seconds += missing
        ahead = max(0.0, 2 * schedule.base / schedule.budget - schedule.trained)
        schedule.passed(ahead, round(ahead * schedule.steps / schedule.trained))
        for name, tier in schedule.tiers.items():
            extra = schedule.credit(name) - tier.cost / 2
            tier.spent += extra
            self.watch.observer.own_seconds += extra  # else it would be less for listening

    def pause(self) -> None:
        self.watch.taps.close()

    def resume(self, seconds: float) -> None:
        """Take the pause out of what the watch believes to be training, which fills its budget."""
        observer, taps = self.watch.observer, self.watch.taps
        assert observer._last_end is not None
        observer._last_end += seconds
        observer.slept(0)  # it must not take the plain steps for somebody else's writing
        taps.open()
        taps.follow_roots(observer.roster.models())

    def account(self) -> dict[str, Any]:
        run = self.watch.history().run
        return {
            "seconds": run.seconds,
            "overhead": run.overhead_seconds,
            "times": dict(self.times),
            "spent": {name: tier.spent for name, tier in self.schedule.tiers.items()},
        }

    def close(self) -> None:
        self.watch.close()
        if self.watch.observer.failures:
            raise RuntimeError(self.watch.observer.failures[0])


def _gradmend(**settings: Any) -> type[Gradmend]:
    return type("Gradmend", (Gradmend,), settings)


@dataclass(frozen=True)
class Variant:
    """A monitor and how it is measured."""

    title: str
    monitor: type[Monitor]
    turns: int = 1
    """Chunks in a round."""
    period: int = 1
    """A round has so many steps, or a multiple: what is done now and then is then in it."""
    package: str = ""
    """What has to be installed."""
    kernels: str = ""
    """``GRADMEND_KERNELS``."""


def _ours(title: str, *, period: int = 1, kernels: str = "", **settings: Any) -> Variant:
    return Variant(title, _gradmend(**settings), turns=3, period=period, kernels=kernels)


VARIANTS: dict[str, Variant] = {
    "plain": Variant("nothing (noise)", Monitor),
    "foreach-norm": Variant("`torch._foreach_norm`, fetched once", ForeachNorm),
    "clip-norm": Variant("`clip_grad_norm_`, fetched", ClipNorm),
    "naive-item": Variant("6 statistics a gradient, `.item()` each", NaiveItem),
    "tensorboard": Variant("TensorBoard histograms", TensorBoard, package="tensorboard"),
    "wandb-1": Variant('`wandb.watch(log="all", log_freq=1)`', WandbWatch, package="wandb"),
    "wandb-10": Variant(
        '`wandb.watch(log="all", log_freq=10)`', WandbWatch10, period=10, package="wandb"
    ),
    "gradmend": _ours("gradmend, as it comes (2%)"),
    "gradmend-no-looks": _ours("gradmend, 2%, no looks", looks=False),
    "gradmend-folder": _ours("gradmend, 2%, run folder", to_disk=True),
    "gradmend-1%": _ours("gradmend, 1%", budget="1%"),
    "gradmend-torch": _ours("gradmend, 2%, without numba", kernels="torch"),
    "gradmend-all": _ours("gradmend, everything, no looks", budget="all", looks=False, period=50),
    "gradmend-all-folder": _ours(
        "gradmend, everything, no looks, run folder",
        budget="all",
        looks=False,
        to_disk=True,
        period=50,
    ),
    "gradmend-all-looks": _ours("gradmend, everything, looks", budget="all", period=200),
}


class Training:
    """One training under one monitor; its methods are the orders it takes."""

    def __init__(self, build: Callable[[], Net], variant: Variant, folder: Path) -> None:
        self.net = build()
        self.folder, self.variant = folder, variant
        self.optimizer = torch.optim.AdamW(self.net.model.parameters(), lr=1e-4, fused=True)
        self.step = 0
        self.nothing = Monitor(self.net.model, self.optimizer, folder)
        self.monitor = self.nothing
        self.paused = 0.0

    def set_up(self, seconds: float) -> dict[str, Any]:
        """Begin to watch, step once, then for so many seconds; tell how long each takes."""
        began = time.perf_counter()
        self.monitor = self.variant.monitor(self.net.model, self.optimizer, self.folder)
        self._step(self.monitor)
        first = time.perf_counter() - began
        watched = self._for(self.monitor, seconds)
        self.monitor.steady()
        self.monitor.settle()
        self._pause()
        parameters = [p.numel() for p in self.net.model.parameters()]
        return {
            "setup": first,
            "step": watched,
            "plain": self._for(self.nothing, min(seconds, 1.0)),
            "parameters": sum(parameters),
            "tensors": len(parameters),
        }

    def chunk(self, steps: int, plain: int) -> dict[str, Any]:
        """Watched steps by the clock, between plain ones; what the plain ones took, a step."""
        monitor = self.monitor
        first = self._plain(plain)
        monitor.resume(time.perf_counter() - self.paused)
        self._step(monitor)  # uncounted: caches warm up to the other kind of step
        before = monitor.account()
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            self._step(monitor)
        monitor.settle()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        after = monitor.account()
        self._pause()
        last = self._plain(plain)
        usual = [(a + b) / 2 for a, b in zip(first, last, strict=True)]
        return {"wall": wall, "cpu": cpu, "plain": usual, "before": before, "after": after}

    def _pause(self) -> None:
        self.monitor.pause()
        self.paused = time.perf_counter()

    def _plain(self, steps: int) -> tuple[float, float]:
        self._step(self.nothing)
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            self._step(self.nothing)
        return (time.perf_counter() - wall) / steps, (time.process_time() - cpu) / steps

    def _for(self, monitor: Monitor, seconds: float) -> float:
        """Train for so long, and tell how long a step takes."""
        self._step(monitor)
        began, steps = time.perf_counter(), 0
        while steps < 2 or time.perf_counter() - began < seconds:
            self._step(monitor)
            steps += 1
        return (time.perf_counter() - began) / steps

    def end(self) -> dict[str, Any]:
        """Stop; tell what it took in all."""
        peak: float = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self.monitor.close()
        written = sum(f.stat().st_size for f in self.folder.rglob("*") if f.is_file())
        peak /= 1e6 if sys.platform == "darwin" else 1e3
        return {"peak": peak, "written": written / self.step}

    def _step(self, monitor: Monitor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.net.loss(self.step)
        loss.backward()  # type: ignore[no-untyped-call]
        monitor.gradients()
        self.optimizer.step()
        monitor.stepped(loss, self.step)
        self.step += 1


def main() -> None:
    """Take orders until there are no more."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("net", choices=NETS)
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not be taken for an answer
    torch.set_num_threads(1)
    torch.manual_seed(0)
    training = Training(
        lambda: NETS[arguments.net](small=arguments.small),
        VARIANTS[arguments.variant],
        arguments.folder,
    )
    for line in sys.stdin:
        order = json.loads(line)
        answer = getattr(training, order.pop("do"))(**order)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
