"""The outputs of a model as one tensor."""

from collections.abc import Mapping

from torch import Tensor
from torch.utils._pytree import tree_leaves


def outputs_of(result: object, role: str = "student") -> Tensor:
    """The tensor of outputs in what a forward pass returns.

    Of a mapping, as the models of transformers return it (``ModelOutput``), these are the ``"logits"``, else the first
    tensor.

    Raises:
        TypeError: There is no such tensor.
    """
    outputs = result
    if isinstance(result, Mapping):
        tensors = (x for x in (result.get("logits"), *result.values()) if isinstance(x, Tensor))
        outputs = next(tensors, None)
    if not isinstance(outputs, Tensor):
        raise TypeError(
            f"{role}: its forward returned {type(result).__name__}, must return one Tensor of outputs, or a mapping "
            "that has them as its logits"
        )
    return outputs


def tensors_of(result: object) -> list[Tensor]:
    """All tensors in what a forward pass returns. The logits of a mapping come first."""
    first = [result["logits"]] if isinstance(result, Mapping) and "logits" in result else []
    tensors = [x for x in (*first, *tree_leaves(result)) if isinstance(x, Tensor)]
    return list({id(x): x for x in tensors}.values()) if first else tensors


def logits_of(result: object, role: str = "model") -> Tensor:
    """The same with the classes on axis 1. Mappings hold logits ``(batch, tokens, classes)`` of tokens."""
    outputs = outputs_of(result, role)
    tokens = isinstance(result, Mapping) and outputs.dim() == 3
    return outputs.movedim(-1, 1) if tokens else outputs
