"""The sweep of θ that the paper calls for (section 5.4): new weights U[0, θ], one data set."""

from dataclasses import replace

from experiments import basic
from experiments.data import Source, fashion_mnist
from experiments.experiment import Experiment
from experiments.methods import default, scratch, uniform, zero
from experiments.scales import Scale
from experiments.task import Method, Task

THETAS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


def tasks(scale: Scale, images: Source) -> list[Task]:
    """The tasks of `basic`; what is compared is θ."""
    return [replace(task, methods=COMPARED) for task in basic.tasks(scale, images)]


def _uniform(theta: float) -> Method:
    return lambda growth, seed: uniform(replace(growth, theta=theta), seed)


COMPARED: dict[str, Method] = {
    "scratch": scratch,
    "default": default,
    "zero": zero,
    **{f"uniform-{theta:g}": _uniform(theta) for theta in THETAS},
}
EXPERIMENT = Experiment("theta", fashion_mnist, tasks, COMPARED, mlp_at_quick=True)
