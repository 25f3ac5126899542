"""From findings to candidates: every fitting remedy, in the order in which a race tries them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from gradmend.errors import UnknownName
from gradmend.probe.collecting import collecting_later
from gradmend.records.finding import Finding, Severity
from gradmend.records.prescription import (
    KEEPS,
    Advice,
    Change,
    Edit,
    Prescription,
    Refusal,
)
from gradmend.records.trace import Trace
from gradmend.registry import Remedy, remedies
from gradmend.theory.drawing import blame
from gradmend.theory.guessing import below_a_guess

MOST_COMBINED = 4
"""Combinations tried with the best candidate."""
PER_CHANGE = {Change.INITIALISATION: 3, Change.OPTIMIZER: 2}
"""Candidates of one kind of change that start before other kinds had their turn; else one."""
MOST_LOCAL = 3
"""Candidates that change no more than what is guilty and get a round of their own."""
DIRECT = frozenset({Change.WIRING, Change.DATA_SCALE})
"""Changes that take a cause back where it lies."""
FEWEST_LAYERS = 4
"""Below this no layer is one among many."""
APART = frozenset({Change.WIRING, Change.DATA_SCALE, Change.OPTIMIZER})
"""Changes outside of the network, which go together with any other."""
AT_EVERY_STEP = frozenset({"clip_gradients", "warm_up", "scale_loss"})
"""Edits that act at every step: they change more than a number that is set once."""


@dataclass(frozen=True, slots=True)
class Option:
    """One prescription and what speaks for it."""

    prescription: Prescription
    cause: int
    """Place, among the findings, of the first one it treats; explained ones and symptoms count
    as the last."""
    turn: int
    """Its place among the remedy's own answers, best first."""
    companion: bool


@dataclass(frozen=True, slots=True)
class Candidates:
    """What could be tried, in the order to try it, and what could not."""

    options: tuple[Option, ...]
    refusals: tuple[Refusal, ...] = ()
    advice: tuple[Advice, ...] = ()
    """What only the source can mend."""
    notable: tuple[str, ...] = field(default=())
    """Names of the findings that are causes of their own."""
    local: int = 0
    """How many options, from the first on, change no more than the data, the wiring or the few
    guilty layers that the first cause is about."""

    @property
    def prescriptions(self) -> tuple[Prescription, ...]:
        """Every single one, in the order to try them."""
        return tuple(option.prescription for option in self.options)

    def built_at(self, line: str) -> Candidates:
        """The same, for the model that a line of a script builds."""
        options = (
            replace(each, prescription=replace(each.prescription, built_at=line))
            for each in self.options
        )
        return replace(self, options=tuple(options))

    def combined(self, best: Prescription) -> tuple[Prescription, ...]:
        """What may go together with the best: companions, and answers to the causes it leaves.

        Two remedies for one cause are rivals, and combined only where they take hold of different
        things: the data or the wiring, the optimizer, the network.
        """
        left = [
            option.prescription
            for option in self.options
            if set(option.prescription.remedies).isdisjoint(best.remedies)
            and (option.companion or (option.turn == 0 and self._adds(option.prescription, best)))
            and not _both_scale_the_rate(option.prescription, best)
        ]
        found = sorted((together(best, other) for other in left), key=lambda p: p.size)
        if len(left) > 1 and len(found) < MOST_COMBINED:
            found.append(together(best, *left[:2]))
        return tuple(found[:MOST_COMBINED])

    def _adds(self, other: Prescription, best: Prescription) -> bool:
        """Whether another prescription does something that the best does not."""
        own_cause = set(other.treats).isdisjoint(best.treats)
        notable = not set(other.treats).isdisjoint(self.notable)
        apart = set(other.changes) <= APART and set(other.changes).isdisjoint(best.changes)
        return apart or (own_cause and notable)


@collecting_later()
def prescribe(findings: tuple[Finding, ...], trace: Trace, keep: Iterable[str] = ()) -> Candidates:
    """Ask every remedy that treats a finding.

    Args:
        findings: What is to be treated, ranked; notes are not.
        trace: The look they came from.
        keep: Words of :data:`gradmend.records.prescription.KEEPS`: what must not change.

    Raises:
        UnknownName: If ``keep`` holds a word that nobody knows.
    """
    keep = tuple(keep)  # read twice: an iterator would be used up when the reason is told
    forbidden = forbidden_changes(keep)
    serious = tuple(f for f in findings if f.severity is not Severity.NOTE)
    causes = [f.name for f in serious if f.explained_by is None and not f.symptom]
    options: list[Option] = []
    refusals: list[Refusal] = []
    advice: list[Advice] = []
    for remedy in remedies():
        treated = tuple(f for f in serious if f.name in remedy.treats)
        if not treated:
            continue
        blocked = forbidden & set(remedy.changes)
        if blocked and blocked == set(remedy.changes):
            words = ", ".join(word for word in keep if KEEPS[word] & blocked)
            refusals.append(_refused(remedy, treated, f"keep={words} forbids it"))
            continue
        turn = 0
        for answer in remedy(treated, trace):
            if isinstance(answer, Refusal):
                refusals.append(answer)
            elif isinstance(answer, Advice):
                advice.append(answer)
            elif blocked := forbidden & set(answer.changes):
                words = ", ".join(word for word in keep if KEEPS[word] & blocked)
                refusals.append(_refused(remedy, treated, f"keep={words} forbids it"))
            else:
                named = replace(
                    answer,
                    remedies=(remedy.name,),
                    treats=tuple(dict.fromkeys(f.name for f in treated)),
                    model=trace.run.model,
                )
                places = [causes.index(f.name) for f in treated if f.name in causes]
                cause = min(places, default=len(causes))
                if named.mends_loss and cause > 0:
                    # All are judged by the loss it mends: it had better be the one that is wrong.
                    refusals.append(
                        _refused(remedy, treated, f"{causes[0] if causes else 'it'} comes first")
                    )
                    continue
                options.append(Option(named, cause, turn, remedy.companion))
                turn += 1
    ordered = in_order(options, trained=is_trained(trace))
    guilty = _guilty_places(serious, trace)
    local = [
        o
        for o in ordered
        if o.cause == 0
        and (_is_local(o.prescription, guilty) or _largest(o.prescription) in DIRECT)
    ]
    local = local[:MOST_LOCAL]
    chosen = {id(option) for option in local}
    return Candidates(
        options=(*local, *(option for option in ordered if id(option) not in chosen)),
        refusals=tuple(refusals),
        advice=tuple(advice),
        notable=tuple(causes),
        local=len(local),
    )


def _guilty_places(findings: tuple[Finding, ...], trace: Trace) -> frozenset[str]:
    """The few layers that the first cause is about, with their activations; none where it is many.

    Where a network has few layers, none is one among many.
    """
    cause = next((f for f in findings if f.explained_by is None and not f.symptom), None)
    if cause is None or len({op.module for op in trace.weights}) < FEWEST_LAYERS:
        return frozenset()
    few = {op.id for op in blame([cause], trace).few}
    pairs = [(weights, act) for weights, act in trace.pairs() if weights.id in few]
    own = {trace.operations[number].module for number in few}
    return frozenset(own | {act.module for _, act in pairs})


def _is_local(prescription: Prescription, places: frozenset[str]) -> bool:
    """Whether it changes nothing but the guilty layers."""
    if Change.OPTIMIZER in prescription.changes:
        return False
    names = {name for edit in prescription.edits for name in edit.targets}
    return bool(names) and {_module(name) for name in names} <= places


def _module(name: str) -> str:
    """The module of a parameter's name, or the module itself."""
    path, _, leaf = name.rpartition(".")
    return path if leaf in ("weight", "bias") else name


def in_order(options: Iterable[Option], *, trained: bool = False) -> list[Option]:
    """The order to try them in.

    A remedy's first answer before its second, the first cause before the others; among those
    every kind of change has its turn, smallest first, before one kind is tried again and again.
    What a model has learned is given up last.

    Args:
        options: All there are.
        trained: Whether the model has been trained: then those that keep its function come first.
    """

    def place(option: Option) -> tuple[bool, bool, bool]:
        forgets = trained and not option.prescription.keeps_function
        return forgets, option.turn > 0, option.cause > 0

    def effort(option: Option) -> tuple[object, ...]:
        (largest, *rest), edits = option.prescription.size, option.prescription.edits
        return place(option), largest, any(e.kind in AT_EVERY_STEP for e in edits), rest

    found: list[Option] = []
    waiting = sorted(options, key=effort)
    while waiting:
        seen: Counter[tuple[object, ...]] = Counter()
        later: list[Option] = []
        for option in waiting:
            change = _largest(option.prescription)
            means = (place(option), change, _means(option.prescription))
            full = seen[place(option), change] >= PER_CHANGE.get(change, 1) or seen[means]
            (later if full else found).append(option)
            if not full:
                seen.update([(place(option), change), means])
        waiting = later
    return found


def is_trained(trace: Trace) -> bool:
    """Whether the model has learned something: its optimizer has, or its loss is below a guess."""
    if trace.optimizer is not None and trace.optimizer.steps_taken:
        return True
    return below_a_guess(trace)


def together(*prescriptions: Prescription) -> Prescription:
    """Several prescriptions as one, their edits in the order of how much they change.

    Weights are drawn before modules are put around them: the names are those of the model as it
    was. The optimizer comes last; it must hold what the others put in.
    """
    joined = prescriptions[0]
    for other in prescriptions[1:]:
        joined = joined.plus(other)
    parts = sorted(prescriptions, key=lambda p: _phase(_largest(p)))
    edits: list[Edit] = [edit for part in parts for edit in part.edits]
    return replace(joined, edits=tuple(edits))


def forbidden_changes(keep: Iterable[str]) -> frozenset[Change]:
    """The kinds of change that ``keep`` rules out."""
    found: set[Change] = set()
    for word in keep:
        if word not in KEEPS:
            raise UnknownName(
                f"keep='{word}' names nothing that can be kept",
                "",
                f"use any of {', '.join(KEEPS)}",
            )
        found |= KEEPS[word]
    return frozenset(found)


def _refused(remedy: Remedy, treated: tuple[Finding, ...], reason: str) -> Refusal:
    return Refusal(remedy=remedy.name, finding=treated[0].name, reason=reason)


def _largest(prescription: Prescription) -> Change:
    return max(prescription.changes, default=Change.WIRING)


def _means(prescription: Prescription) -> str:
    """What it works by, for the first part: two clippings are more alike than a clip and a rate."""
    return prescription.edits[0].kind if prescription.edits else ""


def _both_scale_the_rate(one: Prescription, other: Prescription) -> bool:
    """Whether the learning rate would be scaled twice for the same reason."""
    kinds = [{edit.kind for edit in p.edits} for p in (one, other)]
    return all("scale_learning_rate" in kind for kind in kinds)


def _phase(change: Change) -> int:
    return len(Change) if change is Change.OPTIMIZER else int(change)
