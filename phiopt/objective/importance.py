"""Which examples of a batch hold its Hessian: a few, once the loss is fitted."""

import torch
from torch import Tensor

from phiopt.derivatives import linearise
from phiopt.objective.mean_loss import Task

UNIFORM = 0.2
"""Share of the choice that is blind to the scores, so that no example's weight passes 1 / UNIFORM
times what it were if all were alike."""


def influence(task: Task, outputs: Tensor) -> Tensor:
    """How much each example of the batch can move the Hessian, up to a common factor: (batch,).

        s_i² = ‖∂l_i/∂z_i‖² + ‖∂²l_i/∂z_i² r‖²

    from the outputs z, which a step has at hand. The Hessian of l_i in w is J_iᵀ (∂²l_i/∂z²) J_i +
    Σ_k ∂l_i/∂z_k ∂²z_k/∂w²: both factors vanish with 1 − p_y under cross-entropy, and the first
    stays under a squared error. r is a fixed vector without symmetries. Outputs whose first axis is
    not that of the examples tell nothing of them: all are alike then.
    """
    if outputs.dim() == 0 or len(outputs) != len(task):
        return torch.ones(len(task), dtype=outputs.dtype, device=outputs.device)
    direction = torch.arange(outputs[0].numel(), dtype=outputs.dtype, device=outputs.device).cos()
    at = linearise(lambda z: task.of_outputs(z["z"]), {"z": outputs})
    product = at.hvp({"z": direction.view_as(outputs[0]).expand_as(outputs)})
    shape = len(task), outputs[0].numel()  # one axis of outputs or several, of any size
    parts = [part["z"].reshape(shape).square().sum(1) for part in (at.gradient, product)]
    tiny = torch.finfo(outputs.dtype).tiny
    return (parts[0] + parts[1]).clamp_min(tiny).sqrt()  # the root has no derivative at 0


def chosen(task: Task, scores: Tensor, size: int, offset: Tensor) -> Task:
    """The task on ``size`` of its examples, weighted so that each derivative at w has the whole
    batch's expectation over ``offset``, uniform in [0, 1).

    Example i is taken with probability π_i, proportional to its score where that stays below 1, by
    systematic sampling (Madow 1949), and weighted by 1/π_i (Horvitz and Thompson 1952). Those with
    π_i = 1 are always there, so that a Hessian that hangs on them hardly varies.
    """
    n = len(task)
    probabilities = inclusion((1 - UNIFORM) * scores / scores.sum() + UNIFORM / n, size)
    # i is taken where the running sum of π passes one of offset, offset + 1, ...
    passed = (probabilities.detach().cumsum(0) - offset).floor()
    taken = passed.diff(prepend=(-offset).floor()[None]) > 0
    places = taken.int().argsort(descending=True, stable=True)[:size]
    return task.chosen(places, size / (n * probabilities[places]))


def inclusion(shares: Tensor, size: int) -> Tensor:
    """π_i = min(1, c · share_i), c such that they sum to ``size``; shares are positive."""
    ordered = shares.sort(descending=True).values
    rest = ordered.flip(0).cumsum(0).flip(0)  # from each on
    left = size - torch.arange(len(shares), dtype=shares.dtype, device=shares.device)
    certain = (left * ordered >= rest).cumprod(0).sum()  # the first so many have π = 1
    certain = certain.clamp_max(len(shares) - 1)
    scale = left.gather(0, certain[None]) / rest.gather(0, certain[None])
    return (scale * shares).clamp_max(1.0)
