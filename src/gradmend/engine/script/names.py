"""Names as a run shows them, and names inside one of its models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import nn

from gradmend.probe.roster import Roster, plain_path
from gradmend.records.finding import Finding


@dataclass(frozen=True, slots=True)
class Names:
    """What shown names stand for: (place of the model, path inside it)."""

    inner: dict[str, tuple[int, str]]
    shown: tuple[dict[str, str], ...]
    """By place: the shown name of each path."""

    @classmethod
    def of(cls, roster: Roster, roots: Sequence[nn.Module]) -> Names:
        """Read the names of some models off the roster that gave them.

        A model that was alone when a name was given is shown without a prefix, and keeps the name
        when others come; so the earlier model has the better claim to a bare name.
        """
        found: dict[str, tuple[int, str]] = {}
        bare: dict[str, tuple[int, str]] = {}
        shown: list[dict[str, str]] = []
        for at, root in enumerate(roots):
            inner = getattr(root, "_orig_mod", root)
            paths = [name for name, _ in inner.named_modules(remove_duplicate=False)]
            paths += [name for name, _ in inner.named_parameters(remove_duplicate=False)]
            shown.append({path: roster.path(root, path) for path in paths})
            for path in paths:
                found.setdefault(shown[at][path], (at, path))
                bare.setdefault(plain_path(path), (at, path))
        return cls(bare | found, tuple(shown))

    def place(self, finding: Finding) -> int | None:
        """The model that most of a finding's modules belong to; ``None`` where it names none."""
        known = [self._known(name) for name in finding.modules if name]
        owners = [each[0] for each in known if each is not None]
        return max(set(owners), key=owners.count) if owners else None

    def _known(self, name: str) -> tuple[int, str] | None:
        """What a name stands for; of what torch does not list, by what it hangs on.

        Layers in a plain list are shown as ``model.layers.0``, of which only ``model`` is known.
        """
        parts = name.split(".")
        for end in range(len(parts), 0, -1):
            found = self.inner.get(".".join(parts[:end]))
            if found is not None:
                at, path = found
                return at, ".".join(filter(None, (path, *parts[end:])))
        return None

    def inside(self, finding: Finding, place: int) -> Finding:
        """A finding of the run, in the names of one model."""

        def own(name: str) -> str:
            at, path = self._known(name) or (None, name)
            return path if at == place else name

        return _renamed(finding, own)

    def outside(self, finding: Finding, place: int) -> Finding:
        """A finding about one model, in the names of the run."""
        return _renamed(finding, lambda name: self.shown[place].get(name, name))


def _renamed(finding: Finding, own: Callable[[str], str]) -> Finding:
    return replace(
        finding,
        modules=tuple(map(own, finding.modules)),
        evidence=tuple(
            item if item.module is None else replace(item, module=own(item.module))
            for item in finding.evidence
        ),
    )
