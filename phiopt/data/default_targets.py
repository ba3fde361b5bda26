"""Targets as the default loss reads them: what is left out, and the next tokens of a causal language model."""

from __future__ import annotations

import torch
from torch import Tensor

from phiopt._inputs import Inputs, Several, Targets

LEFT_OUT = -100
"""The label of a position that the default loss leaves out, where inputs are given by name."""


def leaves_out(inputs: Inputs) -> bool:
    """Whether labels `LEFT_OUT` are left out. They are if the inputs are given by name, as transformers does."""
    return isinstance(inputs, Several) and bool(inputs.named)


def counted(inputs: Inputs, targets: Tensor) -> Tensor:
    """The labels that count."""
    return targets[targets != LEFT_OUT] if leaves_out(inputs) else targets


class NextTokens:
    """Moves the labels of a causal language model, so that each position has the next token as its label.

    The models of transformers take ``labels`` equal to ``input_ids`` and move them by one inside. Without a move a
    model would learn to repeat its input. The first batch decides: labels are moved if those that count equal
    ``input_ids``. A mapping with ``decoder_input_ids`` is that of an encoder-decoder, whose labels stay.
    """

    def __init__(self) -> None:
        self._moves: bool | None = None

    @property
    def moves(self) -> bool:
        """Whether labels are moved, as far as batches have been read."""
        return bool(self._moves)

    def __call__(self, name: str, inputs: Inputs, targets: Targets) -> Targets:
        """The targets of a batch.

        Raises:
            ValueError: The labels of an earlier batch were ``input_ids``, and these are not.
        """
        same = _repeats(inputs, targets)
        if self._moves is None:
            self._moves = same
        if not self._moves:
            return targets
        assert isinstance(targets, Tensor)
        if not same:
            raise ValueError(
                f"{name}: labels of the first batch are its input_ids, so that each position learns the next token, "
                "and labels of a later batch are others; give loss= for such labels"
            )
        last = torch.full_like(targets[:, :1], LEFT_OUT)
        return torch.cat([targets[:, 1:], last], 1)


def _repeats(inputs: Inputs, targets: Targets) -> bool:
    """Whether all labels that count are the input's tokens."""
    if not isinstance(inputs, Several) or not isinstance(targets, Tensor):
        return False
    tokens = inputs.named.get("input_ids")
    if tokens is None or "decoder_input_ids" in inputs.named or tokens.shape != targets.shape:
        return False
    counts = targets != LEFT_OUT
    return tokens.dim() == 2 and bool(counts.any()) and torch.equal(tokens[counts], targets[counts])
