"""φ with its terms switched on and off, one data set; λ2 > 0 always, as the paper demands.

``phi-13`` would have λ1 and λ3 on; the terms that are on have the same weight, and the digits of a
name say which they are.  ``phi-2`` is a control: its argmin is the start, after the solver's work.
"""

from dataclasses import replace
from itertools import product

from experiments import basic
from experiments.data import Source, fashion_mnist
from experiments.experiment import Experiment
from experiments.methods import default, scratch
from experiments.scales import Scale
from experiments.task import Method, Task
from experiments.weights import phi_at
from phiopt import Lambdas

SWITCHES = [(task, 1, noise, curvature) for curvature, noise, task in product((0, 1), repeat=3)]


def tasks(scale: Scale, images: Source) -> list[Task]:
    """The tasks of `basic`; what is compared is λ."""
    return [replace(task, methods=COMPARED) for task in basic.tasks(scale, images)]


def name(switches: tuple[int, ...]) -> str:
    return "phi-" + "".join(str(term) for term, on in enumerate(switches, 1) if on)


COMPARED: dict[str, Method] = {
    "scratch": scratch,
    "default": default,
    **{name(s): phi_at(Lambdas(*(on / sum(s) for on in s))) for s in SWITCHES},
}
EXPERIMENT = Experiment("lambdas", fashion_mnist, tasks, COMPARED, mlp_at_quick=True)
