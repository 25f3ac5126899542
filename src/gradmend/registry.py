"""Rules and remedies by name: the decorators, discovery, and what their pages are made of.

A rule file and a remedy file each hold one function whose docstring is its manual page. The
built-in ones are found by walking :mod:`gradmend.rules` and :mod:`gradmend.remedies`; a plug-in
takes the same road through the entry-point groups ``gradmend.rules`` and ``gradmend.remedies``.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from functools import cache
from typing import TYPE_CHECKING, Any

from gradmend.errors import BadInput, UnknownName
from gradmend.records.finding import CannotJudge, Finding
from gradmend.records.prescription import Advice, Change, Prescription, Refusal
from gradmend.records.request import Request
from gradmend.records.trace import Trace

if TYPE_CHECKING:  # it needs NumPy, which `gradmend explain` does without
    from gradmend.records.history import History

RULE_SECTIONS = (
    "What it finds",
    "Why it matters",
    "How it is measured",
    "Silent when",
    "References",
)
REMEDY_SECTIONS = (
    "What it does",
    "Why it should work",
    "What it predicts",
    "When it refuses",
    "What it costs",
    "References",
)

FAMILIES = {
    "INI": "initialisation",
    "ACT": "activation",
    "NRM": "normalisation",
    "RES": "residual topology and depth",
    "REC": "recurrence",
    "ATT": "attention",
    "NUM": "number format",
    "OPT": "optimizer and schedule",
    "LOS": "loss",
    "DAT": "data",
    "GRF": "graph and gradient",
}
"""The family of a code is where the cause lives."""


@dataclass(frozen=True, slots=True)
class Case:
    """A model of the zoo (or a training, for a rule over runs), by name and arguments."""

    model: str
    args: dict[str, Any]

    @classmethod
    def of(cls, model: str, **args: Any) -> Case:
        """``Case.of("mlp", depth=100, activation="sigmoid")``."""
        return cls(model, args)

    def __str__(self) -> str:
        inner = ", ".join(f"{key}={value!r}" for key, value in self.args.items())
        return f"{self.model}({inner})"


def limit(default: float, *, unit: str, source: str) -> Any:
    """A threshold of a rule: a dataclass field that cannot be without unit and source."""
    return field(default=default, metadata={"unit": unit, "source": source})


@dataclass(frozen=True)
class NoLimits:
    """For rules that state a fact and need no threshold."""


RuleFunction = Callable[[Trace, Any], Iterable[Finding | CannotJudge | Request]]
LiveFunction = Callable[["History", Any], Iterable[Finding]]
RemedyFunction = Callable[[tuple[Finding, ...], Trace], Iterable[Prescription | Refusal | Advice]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule and everything said about it in its file."""

    code: str
    name: str
    limits: Any
    since: str
    summary: str
    sections: dict[str, str]
    function: RuleFunction | None = None
    """Judges one look; ``None`` for a rule that only a run can show."""
    fires_on: tuple[Case, ...] = ()
    silent_on: tuple[Case, ...] = ()
    live: LiveFunction | None = None
    """Judges a run as it grows; ``None`` for a rule that one look settles."""
    live_fires_on: tuple[Case, ...] = ()
    live_silent_on: tuple[Case, ...] = ()
    rehearsed: bool = True
    """Whether a rehearsal (:mod:`gradmend.engine.rehearsal`) can show it to ``live``; not so for
    what only the user's own loop, data or optimizer does."""

    def __call__(self, trace: Trace) -> Iterator[Finding | CannotJudge | Request]:
        """Judge a trace with this rule's own limits."""
        if self.function is not None:
            yield from self.function(trace, self.limits)

    def over(self, history: History) -> Iterator[Finding]:
        """Judge a run with this rule's own limits."""
        if self.live is not None and (self.rehearsed or not history.run.rehearsal):
            yield from self.live(history, self.limits)

    def limit_rows(self) -> list[tuple[str, float, str, str]]:
        """(name, default, unit, source) of each limit."""
        return [
            (f.name, getattr(self.limits, f.name), f.metadata["unit"], f.metadata["source"])
            for f in fields(self.limits)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """A remedy and everything said about it in its file."""

    name: str
    function: RemedyFunction
    treats: tuple[str, ...]
    changes: tuple[Change, ...]
    companion: bool
    """Whether it only helps beside another remedy, so the race also tries it combined."""
    since: str
    summary: str
    sections: dict[str, str]

    def __call__(
        self, findings: tuple[Finding, ...], trace: Trace
    ) -> Iterator[Prescription | Refusal | Advice]:
        """Answer findings with prescriptions, or refuse with a reason; nothing asked, no answer."""
        if findings:
            yield from self.function(findings, trace)


def rule(
    *,
    code: str,
    fires_on: Iterable[Case],
    silent_on: Iterable[Case],
    limits: type = NoLimits,
    live: LiveFunction | None = None,
    live_fires_on: Iterable[Case] = (),
    live_silent_on: Iterable[Case] = (),
    rehearsed: bool = True,
    since: str = "0.1",
) -> Callable[[RuleFunction | LiveFunction], Rule]:
    """Turn a function into a rule.

    A function ``(trace, limits) -> findings`` judges one look, and its cases are models of the
    zoo. A function ``(history, limits) -> findings`` judges a run while it grows, and its cases
    are trainings of the zoo. A cause that both can show has one file: the function of a trace is
    decorated, and ``live`` is the function of a history. ``rehearsed=False`` keeps a rule about
    the user's own loop from judging steps that gradmend took itself.

    Raises:
        ValueError: At import, if the docstring lacks a section, the code's family is unknown,
            or a limit has no unit or source.
    """

    def wrap(function: RuleFunction | LiveFunction) -> Rule:
        if code[:3] not in FAMILIES:
            raise ValueError(f"rule code {code} is of no known family: {', '.join(FAMILIES)}")
        summary, sections = read_page(function, RULE_SECTIONS)
        for f in fields(limits):
            if not (f.metadata.get("unit") and f.metadata.get("source")):
                raise ValueError(f"limit {f.name} of {code} needs a unit and a source: limit(...)")
        subject = next(iter(inspect.signature(function).parameters))
        senses: dict[str, Any] = {
            "function": function,
            "fires_on": tuple(fires_on),
            "silent_on": tuple(silent_on),
            "live": live,
            "live_fires_on": tuple(live_fires_on),
            "live_silent_on": tuple(live_silent_on),
        }
        if subject == "history":
            senses = {
                "live": function,
                "live_fires_on": tuple(fires_on),
                "live_silent_on": tuple(silent_on),
            }
        return Rule(
            code=code,
            name=_name_of(function),
            limits=limits(),
            since=since,
            summary=summary,
            sections=sections,
            rehearsed=rehearsed,
            **senses,
        )

    return wrap


def remedy(
    *,
    treats: Iterable[str],
    changes: Iterable[Change],
    companion: bool = False,
    since: str = "0.1",
) -> Callable[[RemedyFunction], Remedy]:
    """Turn a function ``(findings, trace) -> prescriptions`` into a remedy."""

    def wrap(function: RemedyFunction) -> Remedy:
        summary, sections = read_page(function, REMEDY_SECTIONS)
        return Remedy(
            name=_name_of(function),
            function=function,
            treats=tuple(treats),
            changes=tuple(sorted(changes)),
            companion=companion,
            since=since,
            summary=summary,
            sections=sections,
        )

    return wrap


def _name_of(function: Callable[..., Any]) -> str:
    return function.__name__.replace("_", "-")


def read_page(
    function: Callable[..., Any], headings: tuple[str, ...]
) -> tuple[str, dict[str, str]]:
    """Split a docstring into its summary line and its required sections.

    Raises:
        ValueError: If a section is missing or empty.
    """
    text = re.sub(r"^ {4}", "", function.__doc__ or "", flags=re.MULTILINE)
    summary, _, rest = text.partition("\n")
    parts = re.split(rf"^({'|'.join(headings)}):\n", rest, flags=re.MULTILINE)
    sections = {
        heading: re.sub(r"^ {4}", "", body, flags=re.MULTILINE).strip()
        for heading, body in zip(parts[1::2], parts[2::2], strict=True)
    }
    missing = [heading for heading in headings if not sections.get(heading)]
    if missing:
        raise ValueError(f"the page of {function.__name__} lacks: {', '.join(missing)}")
    return summary.strip(), sections


@cache
def rules() -> tuple[Rule, ...]:
    """Every rule, by code.

    Raises:
        ValueError: If two rules share a code or a name.
    """
    found = sorted(_discover("gradmend.rules", Rule), key=lambda r: r.code)
    _refuse_twins([r.code for r in found] + [r.name for r in found])
    return tuple(found)


@cache
def remedies() -> tuple[Remedy, ...]:
    """Every remedy, those that change least first."""

    def place(remedy: Remedy) -> tuple[Change, tuple[Change, ...], str]:
        # A learning rate that comes with another change does not count.
        own = tuple(c for c in remedy.changes if c is not Change.OPTIMIZER) or remedy.changes
        return max(own), own, remedy.name

    found = sorted(_discover("gradmend.remedies", Remedy), key=place)
    _refuse_twins([r.name for r in found])
    return tuple(found)


def find(word: str) -> Rule | Remedy:
    """A rule by code or name, or a remedy by name, in any case.

    Raises:
        UnknownName: With the closest names there are.
    """
    every: dict[str, Rule | Remedy] = {r.name: r for r in remedies()}
    every.update({r.name: r for r in rules()})
    every.update({r.code: r for r in rules()})
    spelt = {name.lower(): name for name in every}
    key = word.strip().lower().replace("_", "-")
    if key in spelt:
        return every[spelt[key]]
    begin = [name for name in spelt if key and name.startswith(key)]
    near = difflib.get_close_matches(key, spelt, n=3, cutoff=0.5)
    close = [spelt[name] for name in dict.fromkeys((*begin, *near))][:4]
    raise UnknownName(
        f"no rule or remedy is called '{word}'",
        "",
        f"did you mean {', '.join(close)}?" if close else "see the list: gradmend explain",
    )


def _discover(package: str, kind: type) -> list[Any]:
    found: dict[int, Any] = {}
    root = importlib.import_module(package)
    modules = [
        importlib.import_module(f"{package}.{info.name}")
        for info in pkgutil.iter_modules(root.__path__)
    ]
    plugins = []
    for entry in importlib.metadata.entry_points(group=package):
        try:
            plugins.append(entry.load())
        except Exception as error:  # somebody else's code: say whose it is
            raise BadInput(
                f"the plug-in '{entry.name}' ({entry.value}) cannot be loaded:"
                f" {type(error).__name__}: {error}",
                "its rules or remedies would be missing without a word",
                "update it or uninstall it",
            ) from error
    for holder in (*modules, *plugins):
        values = [holder] if isinstance(holder, kind) else vars(holder).values()
        found.update({id(v): v for v in values if isinstance(v, kind)})
    return list(found.values())


def _refuse_twins(names: list[str]) -> None:
    twins = sorted({name for name in names if names.count(name) > 1})
    if twins:
        raise ValueError(f"two rules or remedies share a name: {', '.join(twins)}")
