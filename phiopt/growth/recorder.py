"""A dispatch mode that records every operation below autograd."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from phiopt.growth.catalogue import facts, operator_name, recorded_name, skipped
from phiopt.growth.constants import LARGEST, Constants, storage, with_numbers
from phiopt.growth.graph import Node, Value
from phiopt.growth.nested import leaves, mapped

_UNRECORDED = ""
"""Name of the node of a copy. The copy has the value of its original, so the node is left out."""


class Recorder(TorchDispatchMode):
    def __init__(self, *, meta: bool, keep: dict[int, Tensor] | None = None) -> None:
        super().__init__()
        self.meta = meta
        self.keep = keep
        self.nodes: list[tuple[Node, set[int], set[int]]] = []
        self._ids: dict[int, Value] = {}
        self._alive: list[Tensor] = []  # so that no id() is given twice
        self._tainted: set[int] = set()
        self._path: list[str] = [""]
        self.constants: dict[int, Tensor] = {}
        """The constants that operations on data read, by the ids of their values."""
        self._constants = Constants(meta=meta)

    def value(self, x: Tensor) -> Value:
        if id(x) not in self._ids:
            self._renew(x)
        return self._ids[id(x)]

    def _renew(self, x: Tensor) -> None:
        plain = x.layout is not torch.strided or x.is_contiguous()
        strides = None if plain else tuple(x.stride())
        self._ids[id(x)] = Value(len(self._alive), tuple(x.shape), strides)
        self._alive.append(x)

    def taint(self, x: Tensor) -> None:
        self.value(x)
        self._tainted.add(storage(x))

    def enter(self, x: Tensor, original: Tensor) -> None:
        """Let ``x`` stand for ``original``, a constant that the forward pass does not make."""
        self.value(x)
        self._constants.enter(x, original)

    @contextlib.contextmanager
    def follow(self, module: nn.Module) -> Iterator[None]:
        """Note in which submodule each operation runs."""
        names = {id(m): name for name, m in module.named_modules()}

        def enter(m: nn.Module, _: Any) -> None:
            self._path.append(names.get(id(m), self._path[-1]))

        def leave(m: nn.Module, _: Any, __: Any) -> None:
            self._path.pop()

        hooks = register_module_forward_pre_hook(enter), register_module_forward_hook(leave)
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = mapped(self._joined, (args, dict(kwargs or {})))
        if self.meta and kwargs.get("device") is not None:
            kwargs["device"] = torch.device("meta")
        out = func(*args, **kwargs)
        name = operator_name(func)
        inputs = [x for x in leaves((args, kwargs)) if isinstance(x, Tensor)]
        outputs = [x for x in leaves(out) if isinstance(x, Tensor)]
        original = _original(name, inputs, outputs)
        if original is not None:
            self._alive.append(outputs[0])
            self._ids[id(outputs[0])] = self.value(original)
            name = _UNRECORDED
        else:
            name = recorded_name(name)
        arguments = mapped(
            lambda x: self.value(x) if isinstance(x, Tensor) else x, _by_name(func, args, kwargs)
        )
        if not self._constants.compute(func, name, args, kwargs, outputs):
            name, arguments = with_numbers(func, name, arguments, self._read(inputs))
        for x in outputs:
            if any(x is y for y in inputs):
                self._renew(x)  # changed in place: the same tensor holds a new value
        node = Node(name, func, arguments, tuple(self.value(x) for x in outputs), self._path[-1])
        if self.keep is not None and name != _UNRECORDED:
            self.keep |= {self.value(x).id: x.clone() for x in outputs}
        self.nodes.append((node, {storage(x) for x in inputs}, {storage(x) for x in outputs}))
        return out

    def _joined(self, x: Any) -> Any:
        """Take in a tensor that was made before the recording, as a plain attribute of a module is."""
        if not isinstance(x, Tensor) or id(x) in self._ids:
            return x
        joined = x.to("meta") if self.meta else x
        self.enter(joined, x)
        return joined

    def _read(self, inputs: list[Tensor]) -> dict[Value, Tensor]:
        """The constants among the inputs, by their values; they are kept."""
        values = {self.value(x): v for x in inputs if (v := self._constants.value(x)) is not None}
        for value, constant in values.items():
            if value.id not in self.constants:
                small = constant.numel() <= LARGEST
                self.constants[value.id] = constant.clone() if small else constant
        return values

    def dependent(self) -> list[Node]:
        """The nodes that data or parameters flow through. Constants have no part in the correspondence."""
        nodes = [n for n in self.nodes if not facts(n[0].name).creates]
        size = -1
        while size != len(
            self._tainted
        ):  # a buffer that is filled through a view taints its earlier views
            size = len(self._tainted)
            for _, reads, writes in nodes:
                if (reads | writes) & self._tainted:
                    self._tainted |= writes
        return [
            node
            for node, reads, writes in nodes
            if node.name != _UNRECORDED and (reads | writes) & self._tainted
        ]


class ListsAsTensors(TorchFunctionMode):
    """Turns lists of indices into tensors, whose values the recorder sees: ``x[[0, 2]]`` to ``x[tensor([0, 2])]``."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            x, index, *rest = args
            given = index if isinstance(index, tuple) else (index,)
            given = tuple(torch.tensor(i) if _whole_numbers(i) else i for i in given)
            args = (x, given if isinstance(index, tuple) else given[0], *rest)
        return func(*args, **(kwargs or {}))


def _whole_numbers(index: Any) -> bool:
    """Whether an index is a list of whole numbers, or a list of such lists."""
    return (
        isinstance(index, list)
        and bool(index)
        and all(isinstance(i, int) or _whole_numbers(i) for i in index)
    )


def _original(name: str, inputs: list[Tensor], outputs: list[Tensor]) -> Tensor | None:
    """The tensor of which an operation makes a copy; ``None`` if it does more."""
    known = facts(name)
    if known.joins:
        joined = [x for x in inputs if not skipped(x.shape, outputs[0].shape)]
        inputs = joined if len(joined) == 1 else []
    elif not known.copies:
        return None
    return inputs[0] if inputs and _keeps(inputs[0], outputs[0]) else None


def _keeps(x: Tensor, y: Tensor) -> bool:
    """Whether a copy has the original's values. Rounding to whole numbers or to truth values changes them."""
    number = [t.is_floating_point() or t.is_complex() for t in (x, y)]
    truth = y.dtype == torch.bool and x.dtype != torch.bool
    return x.shape == y.shape and number[1] >= number[0] and not truth


def _by_name(
    func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    schema = func._schema.arguments
    given = {a.name: x for a, x in zip(schema, args, strict=False)} | kwargs
    return {
        a.name: given.get(a.name, a.default_value if a.has_default_value() else None)
        for a in schema
    }
