"""From a prescription to the change of the user's own source that says the same."""

from gradmend.rewriting.facts import SourceFacts, Suggestion
from gradmend.rewriting.suggest import suggest

__all__ = ["SourceFacts", "Suggestion", "suggest"]
