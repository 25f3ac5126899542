"""Who goes on: the decisions of a race, as functions of what was measured.

Successive halving (Jamieson and Talwalkar 2016) with two changes that the question asks for. An
arm survives if it closes half of the gap that the best one closes so far, because a *smaller*
change wins if it comes close enough; and the smallest of those is never cut for being slower than
larger ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradmend.engine.trial.arm import Runner
from gradmend.theory.guessing import TRAINED

CLOSES = 0.9
"""Share of the best arm's gain that the smallest edit must reach to win (mission, promise 2)."""
SURVIVES = 0.5
"""Share of the best arm's gain so far that keeps an arm in the race."""
SURVIVES_FIRST = 0.25
"""The same at the first stop: small changes begin more slowly than large ones."""
RUNGS = (1 / 12, 1 / 4, 1.0)
"""Shares of a full training after which the race is cut (our choice: with five candidates, the
original and the confirmation included, a repair then takes about three trainings)."""
FEWEST = 10
"""Steps of a first round at least, where a training has as many: fewer show the batches only."""
FIRST_ROUND = 6
"""Candidates that start together; the others only if none of these gains anything."""
THRIFTY_ROUND = 3
"""The same where a step is dear: the first ones are those that should work best."""
FINALISTS = 3
"""Arms that go on after the first round, at most; two after the second."""
LEAST_GAIN = 0.02
"""Least share of the original's unseen loss that a repair must take off to count as one."""
SUFFICES = 0.2
"""Share of the original's loss that a change to the guilty layers alone must take off by the
second stop, so that no other is tried (our choice)."""
EXPLODED = 3.0
"""Times its own first loss, or a guess's, above which a loss measures no gap (our choice)."""
WORSE = 0.1
"""Share of an evaluation's figure by which a winner may be worse than the original (our choice:
the figures of two evaluations differ by chance too)."""
APART = 0.5
"""Least gap between repeats of the winner and of the original, as a share of how much the repeats
of either differ; see :func:`apart`."""
LEARNED = 0.05
"""Least share of a loss that an arm must take off to have learned: of its own first one where the
original diverged and there is nothing to compare it with."""


def goals(steps: int) -> tuple[int, ...]:
    """Steps at which arms are judged, for trainings of ``steps``; ascending, the last is all."""
    return tuple(sorted({min(steps, max(FEWEST, round(steps * share))) for share in RUNGS}))


def gain(base: float, score: float) -> float:
    """How much smaller a loss is; one that diverged is infinitely worse."""
    if not math.isfinite(base):
        return math.inf if math.isfinite(score) else 0.0
    return base - score


def base_of(
    original: Runner, arms: Sequence[Runner], step: int, guess: float | None = None
) -> float:
    """The loss that gains are counted from: the original's at the same step.

    Where that exploded, what a guess costs, or what it began with if that is not known, as long as
    some arm is below that: beside a loss of 1e6 every finite arm would close "all" of the gap,
    however bad. An original that diverged has no loss of its own.

    Args:
        original: The unedited model's training.
        arms: Those that are compared.
        step: Where they stand.
        guess: Unseen loss of a model that knows nothing, if known.
    """
    known = [arm.at(step) for arm in arms if math.isfinite(arm.at(step))]
    best, worst = min(known, default=math.inf), max(known, default=math.nan)
    own = original.at(step)
    if not math.isfinite(own):
        own = max(original.began, worst) if math.isfinite(original.began) else worst
    cap = original.began if guess is None else guess
    return cap if best < cap < own / EXPLODED else own


def survivors(
    arms: Sequence[Runner],
    original: Runner,
    step: int,
    most: int,
    *,
    share: float = SURVIVES,
    guess: float | None = None,
) -> list[Runner]:
    """Arms that close a part of the best gap so far: the best, the smallest, the next best.

    Where none has gained anything, the best and the first ones.

    Args:
        arms: Those that came to ``step``.
        original: The unedited model's training.
        step: Where they stand.
        most: How many may go on.
        share: Of the best arm's gain, what it takes.
        guess: As in :func:`base_of`.
    """
    ran = sorted((a for a in arms if math.isfinite(a.at(step))), key=lambda arm: arm.at(step))
    if not ran:
        return []
    base = base_of(original, ran, step, guess)
    best = gain(base, ran[0].at(step))
    if best <= LEAST_GAIN * abs(base):
        # A plateau: who is ahead there is chance, and the order they came in is not.
        in_order = [ran[0], *(arm for arm in arms if math.isfinite(arm.at(step)))]
        return list({id(arm): arm for arm in in_order}.values())[:most]
    able = [arm for arm in ran if gain(base, arm.at(step)) >= share * best]
    smallest = min(able, key=lambda arm: (arm.size, arm.at(step)))
    kept = [able[0], smallest, *able[1:]]
    return list({id(arm): arm for arm in kept}.values())[:most]


def clear_winner(
    arms: Sequence[Runner], original: Runner, step: int, guess: float | None = None
) -> list[Runner]:
    """The smallest arm alone, where it is about as good as the best; else all."""
    base = base_of(original, arms, step, guess)
    best = gain(base, min(arm.at(step) for arm in arms))
    smallest = min(arms, key=lambda arm: (arm.size, arm.at(step)))
    gains = best > LEAST_GAIN * abs(base)
    close = gains and gain(base, smallest.at(step)) >= (1 + CLOSES) / 2 * best
    return [smallest] if close else list(arms)


def enough(
    arms: Sequence[Runner], original: Runner, step: int, guess: float | None = None
) -> list[tuple[Runner, float]]:
    """Arms that close 90 % of the gap the best one closes, with that share.

    Smallest change first; the better one first of two that change as much.
    """
    base = base_of(original, arms, step, guess)
    best = gain(base, min(arm.score for arm in arms))
    shares = [(arm, gain(base, arm.score) / best if best else 1.0) for arm in arms]
    fitting = [(arm, share) for arm, share in shares if share >= CLOSES]
    return sorted(fitting, key=lambda pair: (pair[0].size, pair[0].score))


def beats(arm: Runner, original: Runner, guess: float | None = None) -> bool:
    """Whether an arm ends clearly better than the original.

    Where that diverged, whether the arm learned at all: a finite loss alone is no repair. It must
    be below what the original and itself began with; or far below a guess, which is what a
    trained model keeps that the original lost.
    """
    if not math.isfinite(arm.score) or worsened(arm, original):
        return False
    if math.isfinite(original.score):
        return gain(original.score, arm.score) > LEAST_GAIN * abs(original.score)
    if guess is not None and arm.score < TRAINED * guess:
        return True
    known = [start for start in (original.began, arm.began) if math.isfinite(start)]
    return bool(known) and min(known) - arm.score > LEARNED * abs(min(known))


def leads(arm: Runner, original: Runner, step: int) -> bool:
    """Whether an arm is ahead of the original by more than what a plateau's losses differ by."""
    if not math.isfinite(arm.at(step)):
        return False
    base = original.at(step)
    return gain(base, arm.at(step)) > (LEAST_GAIN * abs(base) if math.isfinite(base) else 0.0)


def stands_still(original: Runner) -> bool:
    """Whether the original is where it began, but for less than counts as a gain."""
    began, now = original.scores.get(0, math.nan), original.score
    return abs(began - now) <= LEAST_GAIN * abs(began)


def worsened(arm: Runner, original: Runner) -> tuple[str, ...]:
    """Names of the evaluations by which an arm is clearly worse than the original."""
    pairs = [
        (name, arm.figures[name].score, figure.score)
        for name, figure in original.figures.items()
        if name in arm.figures
    ]
    return tuple(name for name, own, its in pairs if not own - its <= WORSE * abs(its))


def suffices(arm: Runner, original: Runner, step: int, guess: float | None = None) -> bool:
    """Whether a change to the guilty layers alone already does so much that no other is needed."""
    score = arm.at(step)
    if not math.isfinite(score):
        return False
    base = base_of(original, [arm], step, guess)
    return gain(base, score) > SUFFICES * abs(base)


def repeats(twin: Runner, first: Runner, original: Runner, guess: float | None) -> bool:
    """Whether another seed ends about where the first one did: half of its gain at least."""
    base = base_of(original, [first, twin], first.steps, guess)
    return gain(base, twin.score) >= SURVIVES * gain(base, first.score) > 0


def agrees(
    arm: Runner,
    original: Runner,
    first: Runner,
    first_original: Runner,
    guess: float | None = None,
) -> bool:
    """Whether another seed already shows what the first one showed at this step, and as clearly.

    Then it need not be trained to the end: at the same step the arm is ahead by at least half of
    what the first was, and that one went on to win.
    """
    step = arm.steps
    if original.steps != step and not (original.diverged or original.still):
        return False
    ahead = gain(first_original.at(step), first.at(step))
    if not math.isfinite(ahead):
        return beats(arm, original, guess)
    floor = LEAST_GAIN * abs(first_original.at(step))
    return ahead > floor and gain(original.at(step), arm.score) >= max(SURVIVES * ahead, floor)


def apart(pairs: Sequence[tuple[Runner, Runner]]) -> bool:
    """Whether the repeats of the winner end clearly better than all repeats of the original.

    Where the same training does not come out the same twice, three that are better than three
    others show with a chance of 1 in 20 if there is no difference (Mann and Whitney 1947), and
    more often where the first was picked from several. With a gap of half of what repeats differ
    by, and five to pick from, it is 1 in 40 for normal noise (simulated), and one in twenty
    repairs that improve by five standard deviations is missed.
    """
    its = [original.score for original, _ in pairs]
    own = [arm.score for _, arm in pairs]
    known = all(map(math.isfinite, its))
    differ = max(max(its) - min(its), max(own) - min(own)) if known else 0.0
    return min(its) - max(own) > APART * differ
