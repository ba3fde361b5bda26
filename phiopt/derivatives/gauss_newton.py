"""Gauss-Newton products: the Hessian without the model's own second derivatives."""

from collections.abc import Callable
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor
from torch.func import vjp

from phiopt._types import Params
from phiopt.derivatives.hvp import Linearised, linearise

_Vjp: TypeAlias = tuple[Tensor, Callable[[Tensor], tuple[Params]]]


def gauss_newton(
    outputs: Callable[[Params], Tensor], loss: Callable[[Tensor], Tensor], params: Params
) -> Linearised:
    """``loss(outputs(params))`` with G = Jᵀ (∂²loss/∂z²) J in place of its Hessian, J = ∂z/∂w for
    the outputs z.

    G is the Hessian of the loss of the linearised model (Schraudolph 2002). It leaves out Σ_k ∂loss/∂z_k ∂²z_k/∂w²,
    which vanishes where the loss is fitted. G is positive semi-definite if the loss is convex in z. J v is computed
    as the derivative of u ↦ ⟨Jᵀ u, v⟩, in reverse mode, which every layer has. Every result is itself
    differentiable.

        >>> w = {"w": torch.tensor([1.0, 2.0])}
        >>> at = gauss_newton(lambda p: p["w"] ** 2, lambda z: (z**2).sum() / 2, w)
        >>> at.hvp({"w": torch.ones(2)})
        {'w': tensor([ 4., 16.])}
    """
    z, pullback = cast(_Vjp, vjp(outputs, params))
    of_outputs = linearise(lambda p: loss(p["z"]), {"z": z})

    def pushforward(vector: Params) -> Tensor:
        transposed = cast(Any, vjp(lambda u: pullback(u)[0], torch.zeros_like(z))[1])
        return transposed(vector)[0]

    def product(vector: Params) -> Params:
        return pullback(of_outputs.hvp({"z": pushforward(vector)})["z"])[0]

    return Linearised(of_outputs.value, pullback(of_outputs.gradient["z"])[0], product)
