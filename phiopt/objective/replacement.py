"""A neighbourhood of texts: tokens are replaced at random."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from phiopt._checks import Scalar, count, instance, known, scalar
from phiopt._transforms import differentiated
from phiopt.objective.neighbourhood import Draw


@dataclass(frozen=True)
class Replacement:
    """Each token is replaced with probability δ by a token of the data.

        x'_t = x_t with probability 1 - δ, else a token drawn from those of the batch

    The batch's own tokens stand for the data's distribution of tokens: a token that is frequent in the data is drawn as
    often. A token may be replaced by itself. The inputs are whole numbers ``(batch, ...)``; of several inputs it is the
    main one, such as ``input_ids``. The targets of an example stay.

    Args:
        delta: δ ∈ [0, 1], the expected fraction of tokens replaced; a number. x' jumps in δ, so there is no
            derivative in δ.
        keep: Tokens that are never replaced and never drawn, such as padding and the marks of beginning and end;
            default none.
        samples: Draws of x' to an x; default 1.

    Raises:
        ValueError: ``delta`` outside [0, 1] or a tensor that requires grad, or ``samples`` < 1.
        TypeError: ``keep`` is no list, tuple or set of whole numbers.

    Examples:
        >>> around = Replacement(1.0, keep=(0,))
        >>> tokens = torch.tensor([[0, 5, 5, 0]])
        >>> around.perturb(tokens, around.draw(tokens, torch.Generator()))
        tensor([[[0, 5, 5, 0]]])
    """

    largest_delta: ClassVar[float] = 1.0
    of_tokens: ClassVar[bool] = True

    delta: Scalar
    keep: Collection[int] = ()
    samples: int = 1

    def __post_init__(self) -> None:
        count("samples", self.samples)
        kinds = (list, tuple, set, frozenset, range)
        instance("keep", self.keep, kinds, "a collection of token numbers")
        for token in self.keep:
            count("keep", token, least=0)
        value = known(scalar("delta", self.delta))
        if differentiated(self.delta):
            raise ValueError(
                "delta: got a tensor that requires grad, but x' jumps in δ under Replacement; give a number"
            )
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"delta: got {value}, a fraction of tokens must lie in [0, 1]")

    def draw(self, inputs: Tensor, generator: Generator) -> Draw:
        shape, device = (self.samples, *inputs.shape), inputs.device
        rank = torch.rand(shape, generator=generator, device=device)
        tokens = inputs[self._replaceable(inputs)]
        if not len(tokens):
            return rank, inputs.expand(shape).clone()
        chosen = torch.randint(len(tokens), shape, generator=generator, device=device)
        return rank, tokens[chosen]

    def perturb(self, inputs: Tensor, draw: Draw) -> Tensor:
        rank, tokens = draw
        return torch.where((rank < self.delta) & self._replaceable(inputs), tokens, inputs)

    def _replaceable(self, inputs: Tensor) -> Tensor:
        keep = torch.tensor(list(self.keep), dtype=torch.long, device=inputs.device)
        return (inputs[..., None] != keep).all(-1)
