"""A study of digits that takes a second."""

from experiments.methods import Descent, Phi
from experiments.train import Recipe
from phiopt import Corruption
from tests.experiments.cases import study_task

RECIPE = Recipe(budget=80, batch_size=32, learning_rates=(1e-3, 1e-2))
PHI = Phi(Corruption(0.3), 32, Descent(3, 1e-3), Descent(3, 1e-3), restrict_classes=True)
TASK = study_task(RECIPE, PHI)
