"""The paired trial: candidates raced against the original, the winner kept or everything undone.

``deadline`` is the budget, ``arm`` one training, ``trainer`` what trains and judges arms, ``track``
the one that does so on the one model there is, ``race`` decides who goes on, ``trial`` is the whole
from start to verdict.
"""

from gradmend.engine.trial.deadline import Deadline, Tell
from gradmend.engine.trial.race import FINALISTS, FIRST_ROUND, RUNGS, THRIFTY_ROUND, goals
from gradmend.engine.trial.track import Track
from gradmend.engine.trial.trial import Trial

__all__ = [
    "FINALISTS",
    "FIRST_ROUND",
    "RUNGS",
    "THRIFTY_ROUND",
    "Deadline",
    "Tell",
    "Track",
    "Trial",
    "goals",
]
