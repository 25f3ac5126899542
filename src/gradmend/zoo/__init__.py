"""Sick and healthy models by name, for the rules' cases, the docs and the demo.

``build("mlp", depth=100, activation="sigmoid")`` gives a :class:`Specimen`. A rule names its
cases by these names and arguments, as data, so that rule files need no torch.
"""

# Importing them registers their specimens and trainings.
from gradmend.zoo import cut_networks as cut_networks
from gradmend.zoo import healthy_trainings as healthy_trainings
from gradmend.zoo import loops as loops
from gradmend.zoo import misfed_models as misfed_models
from gradmend.zoo import misfed_trainings as misfed_trainings
from gradmend.zoo import miswired_losses as miswired_losses
from gradmend.zoo import miswired_models as miswired_models
from gradmend.zoo import miswired_trainings as miswired_trainings
from gradmend.zoo import networks as networks
from gradmend.zoo import non_finite_values as non_finite_values
from gradmend.zoo import topologies as topologies
from gradmend.zoo import unstable_trainings as unstable_trainings
from gradmend.zoo import wide_attention as wide_attention
from gradmend.zoo.specimen import Specimen, build, names
from gradmend.zoo.training import Training, build_training, training_names

__all__ = ["Specimen", "Training", "build", "build_training", "names", "training_names"]
