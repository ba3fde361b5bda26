"""What the default loss needs of a language model, so that it learns what the model's own loss would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from phiopt._inputs import Inputs, Several

CLOSE = 1e-4
"""Relative change of an output up to which it counts as the same."""


@runtime_checkable
class PreparesDecoderInputs(Protocol):
    """A model of transformers that makes its decoder's inputs of the labels, where a batch lacks them."""

    def prepare_decoder_input_ids_from_labels(self, *args: Any, **kwargs: Any) -> Tensor: ...


def check_decoder_inputs(name: str, model: nn.Module, inputs: Inputs) -> None:
    """Refuse, by ``name``, a batch without the inputs of the model's decoder. Labels do not reach the model, and some
    models decode something else then.
    """
    if not isinstance(model, PreparesDecoderInputs) or not isinstance(inputs, Several):
        return
    given = {"decoder_input_ids", "decoder_inputs_embeds"} & set(inputs.named)
    if inputs.named and not given:
        kind = type(model).__name__
        raise ValueError(
            f"{name}: has the entries {', '.join(inputs.named)}, must have decoder_input_ids, which {kind} makes of "
            "the labels; DataCollatorForSeq2Seq(tokenizer, model=model) adds them, as does "
            "model.prepare_decoder_input_ids_from_labels(labels)"
        )


@torch.no_grad()
def check_causal(name: str, outputs: Callable[[Inputs], Tensor], inputs: Inputs) -> None:
    """Refuse, by ``name``, labels equal to ``input_ids`` for a model that sees the tokens that follow.

    Such a model could copy the next token. The last token of each example is replaced. The outputs before it must stay.

    Args:
        name: What errors call the data.
        outputs: The model, from a batch to logits ``(batch, tokens, classes)``.
        inputs: A few examples.
    """
    assert isinstance(inputs, Several)
    tokens = inputs.named["input_ids"]
    mask = inputs.named.get("attention_mask")
    seen = torch.ones_like(tokens) if mask is None or mask.shape != tokens.shape else mask != 0
    last = tokens.shape[1] - 1 - seen.long().flip(1).argmax(1)
    other = tokens.clone()
    for row, place in enumerate(last.tolist()):
        others = tokens[tokens != tokens[row, place]]
        other[row, place] = others[0] if len(others) else tokens[row, place]
    before, after = outputs(inputs), outputs(inputs.with_entry("input_ids", other))
    if before.dim() != 3 or before.shape[:2] != tokens.shape:
        return
    for row, place in enumerate(last.tolist()):
        change = (after[row, :place] - before[row, :place]).abs()
        if change.numel() and change.max() > CLOSE * before[row].abs().max():
            raise ValueError(
                f"{name}: labels are input_ids, so that each position learns the next token, but the model sees the "
                "tokens that follow, and would learn to copy them; give labels that differ from the inputs where they "
                "count, or loss="
            )
