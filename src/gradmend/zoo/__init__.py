"""Sick and healthy models by name, for the rules' cases, the docs and the demo.

``build("mlp", depth=100, activation="sigmoid")`` gives a :class:`Specimen`. A rule names its
cases by these names and arguments, as data, so that rule files need no torch.
"""

from gradmend.zoo import networks as networks  # importing it registers its specimens
from gradmend.zoo.specimen import Specimen, build, names

__all__ = ["Specimen", "build", "names"]
