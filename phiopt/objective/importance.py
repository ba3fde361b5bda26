"""Importance sampling of a batch. Once the loss is fitted, few examples make up its Hessian."""

import torch
from torch import Tensor

from phiopt.derivatives import linearise
from phiopt.objective.mean_loss import Task

UNIFORM = 0.2
"""Share of the probabilities that does not depend on the scores. It bounds an example's weight by 1 / UNIFORM
times the weight that all would have under equal scores."""


def leverage_scores(task: Task, outputs: Tensor) -> Tensor:
    """How much each example of the batch can move the Hessian, up to a common factor: ``(batch,)``.

        s_i² = ‖∂l_i/∂z_i‖² + ‖∂²l_i/∂z_i² r‖²

    The outputs z are known in a step anyway. The Hessian of l_i in w is

        J_iᵀ (∂²l_i/∂z²) J_i + Σ_k ∂l_i/∂z_k ∂²z_k/∂w²

    Under cross-entropy both derivatives of l_i vanish with 1 − p_y. Under a squared error the second derivative
    stays. r is a fixed vector without symmetries. If the first axis of the outputs does not count the examples,
    all examples have the same score.
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


def importance_sample(task: Task, scores: Tensor, size: int, offset: Tensor) -> Task:
    """The task on a weighted sample of ``size`` examples. In expectation over ``offset``, uniform in [0, 1), each
    derivative at w is that of the whole batch.

    Example i is taken with probability π_i, by systematic sampling (Madow 1949), and weighted by 1/π_i (Horvitz
    and Thompson 1952). π_i is proportional to the score where that stays below 1. Examples with π_i = 1 are in
    every sample, so a Hessian that depends on them alone hardly varies.
    """
    n = len(task)
    probabilities = inclusion((1 - UNIFORM) * scores / scores.sum() + UNIFORM / n, size)
    # i is taken where the running sum of π passes one of offset, offset + 1, ...
    passed = (probabilities.detach().cumsum(0) - offset).floor()
    taken = passed.diff(prepend=(-offset).floor()[None]) > 0
    positions = taken.int().argsort(descending=True, stable=True)[:size]
    return task.subset(positions, size / (n * probabilities[positions]))


def inclusion(shares: Tensor, size: int) -> Tensor:
    """π_i = min(1, c · share_i). The factor c makes the sum equal to ``size``; shares are positive."""
    ordered = shares.sort(descending=True).values
    rest = ordered.flip(0).cumsum(0).flip(0)  # sums from each share to the end
    left = size - torch.arange(len(shares), dtype=shares.dtype, device=shares.device)
    certain = (left * ordered >= rest).cumprod(0).sum()  # how many have π = 1
    certain = certain.clamp_max(len(shares) - 1)
    scale = left.gather(0, certain[None]) / rest.gather(0, certain[None])
    return (scale * shares).clamp_max(1.0)
