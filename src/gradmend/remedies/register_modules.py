"""Make layers known that the model keeps in a plain list or dict."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Advice, Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy


@remedy(treats=["unregistered-parameters"], changes=[Change.WIRING])
def register_modules(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal | Advice]:
    """Turn a list of layers into an ``nn.ModuleList``, and let the optimizer train them.

    What it does:
        Puts an ``nn.ModuleList`` (``nn.ModuleDict``) of the same layers in the place of the plain
        list, tuple or dict, and adds their parameters to the optimizer in a group with the first
        group's options.

    Why it should work:
        The layers get gradients already; nothing but a step was missing. ``state_dict()`` and
        ``to(device)`` reach them from now on.

    What it predicts:
        Nothing that one look can check; the trial decides.

    When it refuses:
        The layers are in nested lists, in an object of another kind, or not in the model.

    What it costs:
        Checkpoints made before lack the layers.

    References:
        torch.nn.ModuleList's page.
    """
    name, cause = "register-modules", findings[0]
    holders = _holders(cause.modules, trace)
    if not holders:
        yield Refusal(
            remedy=name, finding=cause.name,
            reason="the layers are in no plain list or dict of a registered module",
        )  # fmt: skip
    else:
        yield Prescription(
            edits=(Edit(kind="register_modules", targets=holders),),
            changes=(Change.WIRING,),
            reason=f"{', '.join(holders[:3])} becomes known to torch, and is trained",
            keeps_function=True,
        )
    yield Advice(
        remedy=name,
        finding=cause.name,
        text="keep layers in an nn.ModuleList (or nn.ModuleDict): a plain list hides their"
        " parameters from the optimizer, from state_dict() and from to(device)",
        before="self.layers = [nn.Linear(n, n) for _ in range(k)]",
        after="self.layers = nn.ModuleList(nn.Linear(n, n) for _ in range(k))",
        source=cause.source,
    )


def _holders(modules: tuple[str, ...], trace: Trace) -> tuple[str, ...]:
    """``blocks.layers`` of ``blocks.layers.0.linear``: the first name that torch does not know."""
    found: dict[str, None] = {}
    for path in modules:
        names = path.split(".")
        known = 0
        while known < len(names) and ".".join(names[: known + 1]) in trace.module_at:
            known += 1
        if len(names) < known + 2:
            return ()  # a registered module, or one that is the attribute itself
        found[".".join(names[: known + 1])] = None
    return tuple(found)
