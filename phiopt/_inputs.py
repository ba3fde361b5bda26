"""What a model is called with: one tensor, or several with one batch axis, by position and by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import register_pytree_node

from phiopt._types import Params

MAIN = ("input_ids", "pixel_values", "inputs_embeds", "x")
"""Names of the entry that ψ acts on. The first that is there counts."""


@dataclass(frozen=True, eq=False)
class Several:
    """Several tensors with one batch axis. They are indexed, copied and counted as one tensor is.

    Args:
        positional: Tensors ``(batch, ...)`` that a model takes by position.
        named: Tensors ``(batch, ...)`` that it takes by keyword.
    """

    positional: tuple[Tensor, ...] = ()
    named: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.entries.values())))

    def __getitem__(self, index: Any) -> Several:
        return self.mapped(lambda tensor: tensor[index])

    def __iter__(self) -> Iterator[Several]:
        return (self[i] for i in range(len(self)))

    def clone(self) -> Several:
        return self.mapped(Tensor.clone)

    def detach(self) -> Several:
        return self.mapped(Tensor.detach)

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Several:
        """The results of a function of each tensor."""
        named = {name: function(tensor) for name, tensor in self.named.items()}
        return Several(tuple(map(function, self.positional)), named)

    def with_entry(self, key: str, value: Tensor) -> Several:
        """The same with another tensor as one of the `entries`."""
        positional = tuple(value if str(i) == key else x for i, x in enumerate(self.positional))
        return Several(positional, {n: value if n == key else x for n, x in self.named.items()})

    @property
    def entries(self) -> dict[str, Tensor]:
        """The tensors by name. Those that have no name are numbered."""
        return {str(i): tensor for i, tensor in enumerate(self.positional)} | dict(self.named)

    @property
    def main(self) -> str:
        """The entry that ψ acts on: the first by position, else the first of `MAIN`, else the first floating one, else
        the first. Masks count last.
        """
        entries = self.entries
        if self.positional:
            return "0"
        known = [name for name in MAIN if name in entries]
        masks_last = sorted(entries, key=lambda name: "mask" in name)
        return next(iter([*known, *self._floating, *masks_last]))

    @property
    def around(self) -> str | None:
        """The entry in which neighbours x' differ: the main one if it is floating, else the first floating one. Masks
        do not count. None where there is no such entry.
        """
        return self.main if self.main in self._floating else next(iter(self._floating), None)

    @property
    def _floating(self) -> list[str]:
        """Floating entries that are no masks."""
        entries = self.entries.items()
        return [name for name, x in entries if x.is_floating_point() and "mask" not in name]

    def is_floating_point(self) -> bool:
        """Whether there are neighbours x'."""
        return self.around is not None


Inputs: TypeAlias = Tensor | Several
"""A batch of a model's inputs."""

Targets: TypeAlias = Tensor | Several
"""A batch of targets: one tensor, or several by name."""


def apply_to(module: Callable[..., Any], inputs: Inputs) -> Any:
    """What the module returns on these inputs."""
    if isinstance(inputs, Tensor):
        return module(inputs)
    return module(*inputs.positional, **inputs.named)


def apply_with(module: nn.Module, state: Params, inputs: Inputs) -> Any:
    """The same, with other parameters and buffers."""
    if isinstance(inputs, Tensor):
        return functional_call(module, state, (inputs,))
    return functional_call(module, state, inputs.positional, dict(inputs.named))


def entries_of(inputs: Inputs) -> dict[str, Tensor]:
    """The tensors by name, as errors call them. The name of a single tensor is empty."""
    return {"": inputs} if isinstance(inputs, Tensor) else inputs.entries


def mapped(function: Callable[[Tensor], Tensor], inputs: Inputs) -> Inputs:
    """The result of a function of one tensor, or its results for each of several."""
    return function(inputs) if isinstance(inputs, Tensor) else inputs.mapped(function)


def main_of(inputs: Inputs) -> Tensor:
    """The tensor that ψ acts on. See `Several.main`."""
    return inputs if isinstance(inputs, Tensor) else inputs.entries[inputs.main]


def lifted(lift: Callable[[Tensor], Tensor], inputs: Inputs) -> Inputs:
    """ψ of the inputs. Of several, ψ acts on the main one, and the others stay."""
    if isinstance(inputs, Tensor):
        return lift(inputs)
    return inputs.with_entry(inputs.main, lift(inputs.entries[inputs.main]))


def flattened(samples: Inputs) -> Inputs:
    """Samples ``(samples, batch, ...)`` as one batch, all of the first sample first."""
    return mapped(lambda x: x.flatten(0, 1), samples)


def repeated(batch: Inputs, times: int) -> Inputs:
    """The batch so many times, one after the other."""
    return flattened(mapped(lambda x: x.expand(times, *x.shape), batch))


def main_first(inputs: Inputs) -> tuple[Tensor, ...]:
    """All tensors, that which ψ acts on first."""
    if isinstance(inputs, Tensor):
        return (inputs,)
    others = [tensor for key, tensor in inputs.entries.items() if key != inputs.main]
    return (inputs.entries[inputs.main], *others)


def with_main(inputs: Inputs, value: Tensor) -> Inputs:
    """The same inputs with another tensor in place of that which ψ acts on."""
    return lifted(lambda _: value, inputs)


def joined(batches: Sequence[Inputs]) -> Inputs:
    """Batches with the same entries as one."""
    first = batches[0]
    if isinstance(first, Tensor):
        return torch.cat([main_of(batch) for batch in batches])
    columns = {key: [entries_of(batch)[key] for batch in batches] for key in first.entries}
    for key, column in columns.items():
        first = first.with_entry(key, torch.cat(column))
    return first


def as_loss_takes(targets: Targets) -> Any:
    """Targets as a loss gets them: a tensor, or a new dictionary of tensors."""
    return targets if isinstance(targets, Tensor) else dict(targets.named)


def shapes_of(values: Inputs) -> str:
    """The shapes, for messages."""
    if isinstance(values, Tensor):
        return str(tuple(values.shape))
    return ", ".join(f"{name} {tuple(x.shape)}" for name, x in values.entries.items())


def dtypes_of(values: Inputs) -> str:
    """The dtypes, for messages."""
    if isinstance(values, Tensor):
        return str(values.dtype)
    return ", ".join(f"{name} {x.dtype}" for name, x in values.entries.items())


def flatten(several: Several) -> tuple[list[Tensor], Any]:
    """The tensors, and what else `unflatten` needs. For libraries of trees."""
    return list(several.entries.values()), (len(several.positional), tuple(several.named))


def unflatten(tensors: Iterable[Tensor], context: Any) -> Several:
    """Several tensors of a flat list."""
    count, names = context
    leaves = list(tensors)
    return Several(tuple(leaves[:count]), dict(zip(names, leaves[count:], strict=True)))


register_pytree_node(Several, flatten, unflatten)
