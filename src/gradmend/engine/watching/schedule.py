"""When the dear measurements are taken: as often as the budget pays for, and no more."""

from __future__ import annotations

from dataclasses import dataclass

FREE_SECONDS = 2.0
"""What all tiers together may spend beyond their share, once: so that a run of seconds is seen."""
FREE_LISTENING = 0.3
"""Share of them that listening itself may take."""
AWAKE = 64
"""Steps at the beginning of a run that are all listened to."""
MOST_ASLEEP = 200
"""Steps that may pass unheard in a row."""


@dataclass(kw_only=True)
class Tier:
    """One kind of measurement and its share of the budget."""

    share: float
    """Of the budget; the shares of all tiers add up to at most 1."""
    stride: int = 1
    """Fewest steps between two, however much credit there is."""
    cost: float = 0.0
    """Seconds of one, a running mean; 0 before the first."""
    cost_in_steps: float = 0.0
    """What the first one is expected to cost, in steps of the training."""
    warms_up: bool = False
    """Whether what it takes at first, loading kernels, says nothing of the next: under load that
    alone would be more than a short run pays for, and nothing would ever be measured again."""
    spent: float = 0.0
    last: int = -1_000_000


class Schedule:
    """A bucket of credit for each tier, filled by the training's own time.

    A tier is due when its stride has passed and its credit (its share of the budget, of the
    seconds trained so far, less what it spent) pays for the next one. So over a run the cost stays
    within the budget whatever the model, the machine or their noise.

    Args:
        budget: Share of the training's time that watching may take; infinite measures everything
            at its stride.
        tiers: By name.
    """

    def __init__(self, budget: float, tiers: dict[str, Tier]) -> None:
        self.budget = budget
        self.tiers = tiers
        self.trained = 0.0
        """Seconds of training, our own excluded."""
        self.steps = 0
        self.heard = 0
        """Steps that were listened to."""
        self.base = 0.0
        """Seconds that listening itself took, in no tier: the budget pays for it first."""
        self._urgent: set[str] = set()
        self._free: set[str] = set()

    def make_room(self, name: str, tier: Tier) -> None:
        """Add a tier; the others give up their part of its share. Done once only."""
        if name in self.tiers:
            return
        for other in self.tiers.values():
            other.share *= 1.0 - tier.share
        self.tiers[name] = tier

    @property
    def spent(self) -> float:
        """Seconds that all tiers took."""
        return sum(tier.spent for tier in self.tiers.values())

    def passed(self, seconds: float, steps: int = 1) -> None:
        """Steps of the training took so long, without us."""
        self.trained += seconds
        self.steps += steps

    def sleeps(self, step: int) -> int:
        """How many steps to let pass unheard, so that listening costs half the budget at most."""
        if self.budget == float("inf") or step < AWAKE or not self.trained:
            return 0
        if self.base < FREE_LISTENING * FREE_SECONDS:
            return 0
        heard = self.base / (self.heard or 1)
        return min(MOST_ASLEEP, int(heard / (0.5 * self.budget * self.trained / self.steps)))

    def due(self, name: str, step: int) -> bool:
        """Whether a tier may measure at this step."""
        tier = self.tiers[name]
        if name in self._urgent:
            return True
        if step - tier.last < tier.stride:
            return False
        return self.credit(name) >= self._price(tier)

    def credit(self, name: str) -> float:
        """Seconds that a tier may spend now."""
        if self.budget == float("inf"):
            return float("inf")
        tier = self.tiers[name]
        paid = max(0.0, self.budget * self.trained - self.base)
        return tier.share * (FREE_SECONDS + paid) - tier.spent

    def _price(self, tier: Tier) -> float:
        if tier.cost or not self.steps:
            return tier.cost
        return tier.cost_in_steps * self.trained / self.steps

    def took(self, name: str, step: int, seconds: float, *, once: bool = False) -> None:
        """A tier measured at this step; ``once`` is set-up, which no credit pays for."""
        tier = self.tiers[name]
        tier.spent += 0.0 if once else seconds
        # A first measurement warms caches and compiles; it says too much about the next.
        if tier.cost:
            tier.cost = min(seconds, 0.7 * tier.cost + 0.3 * seconds)
        elif not (once and tier.warms_up):
            tier.cost = seconds
        tier.last = step
        self._urgent.discard(name)
        self._free.discard(name)

    def hurry(self, *names: str) -> None:
        """Something happened: measure at the next step, if :data:`FREE_SECONDS` pay for it."""
        self._urgent.update(
            name
            for name in names
            if self.credit(name) + FREE_SECONDS * self.tiers[name].share
            >= self._price(self.tiers[name])
        )

    def once(self, name: str) -> None:
        """Measure at the next step, whatever it costs: the caller counts how often."""
        self._urgent.add(name)
        self._free.add(name)

    def is_free(self, name: str) -> bool:
        """Whether the next measurement of a tier is one that no credit pays for."""
        return name in self._free
