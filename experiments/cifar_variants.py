"""`cifar` with other inputs and heads, on validation data alone, as in `variants`.

The tasks ``…-raw`` are not standardised, ``…-centred`` pad D1's images on all sides.  The methods
``…head-reset`` start the student's head afresh.
"""

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from experiments.cifar import STUDENT, Images, Standardised, load, padded, standardised, task
from experiments.experiment import Experiment
from experiments.methods import Growth, Initialised, default, phi, phi_slice, scratch
from experiments.rivals import RIVALS
from experiments.rivals.late_reset import rest_afresh
from experiments.scales import Scale
from experiments.task import Method, Task
from experiments.variants import but_head, head_reset, untested
from phiopt.lift import Pad

NETWORKS = ("mlp", "cnn")


def default_head_reset(growth: Growth, seed: int) -> Initialised:
    """The teacher's hidden layers; the head is as constructed."""
    carried = default(growth, seed).student
    return Initialised(rest_afresh(growth, seed, carried, but_head))


COMPARED: dict[str, Method] = {
    "scratch": scratch,
    "default": default,
    "default-head-reset": default_head_reset,
    "late_reset": RIVALS["late_reset"],
    "phi": phi,
    "phi_slice": phi_slice,
    "phi_slice-head-reset": head_reset,
    "phi_early": RIVALS["phi_early"],
}


def tasks(scale: Scale, images: Images) -> list[Task]:
    """For each network the inputs of `cifar`, then those with one thing changed."""
    corner = padded(images.fashion, Pad((STUDENT.size, STUDENT.size)))
    centred = padded(images.fashion, _centred)
    usual = standardised(images.cifar)
    inputs = {
        "": (standardised(corner), usual),
        "-raw": (Standardised(corner, (0.0, 1.0)), Standardised(images.cifar, (0.0, 1.0))),
        "-centred": (standardised(centred), usual),
    }
    made = []
    for network in NETWORKS:
        for change, (fashion, own) in inputs.items():
            usual_task = task(scale, network, fashion, own, images.source)
            named = replace(
                usual_task,
                name=f"{network}{change}",
                title=f"{usual_task.title}{change.replace('-', ', ')}",
            )
            made.append(untested(named, COMPARED))
    return made


def _centred(x: Tensor) -> Tensor:
    margin = (STUDENT.size - x.shape[-1]) // 2
    return F.pad(x, (margin,) * 4)


EXPERIMENT = Experiment("cifar-variants", load, tasks, COMPARED, mlp_at_quick=True)
