"""Record what a module computes, as a list of ATen operations.

The module runs once, in evaluation mode, on tensors without storage (device ``meta``) under a dispatch mode that sees
every operation below autograd, whether it came from a layer, a functional call or an operator. Nothing is allocated and
nothing is computed, so a large network traces in a fraction of a second. A module whose control flow needs values runs
on real tensors instead.
"""

from __future__ import annotations

import contextlib
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from phiopt._attention import plain_attention
from phiopt._modules import unchanged, without_process_wide_hooks
from phiopt._types import Params
from phiopt.growth.constants import CREATION, LARGEST, Constants, storage, with_numbers

_TRANSPARENT = {"clone", "alias", "detach", "lift_fresh", "contiguous", "_to_copy", "view_as"}
_CANONICAL = {"_unsafe_view": "view", "unsafe_split": "split", "reshape": "view", "_reshape_alias": "view",
              "unsafe_chunk": "chunk", "_safe_softmax": "_softmax", "split_with_sizes": "split",
              "unsafe_split_with_sizes": "split"}  # fmt: skip


@dataclass(frozen=True)
class Value:
    """A tensor of the trace; equal values are the same tensor."""

    id: int
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Node:
    """One operation: ``arguments`` by their names in the operator's schema, tensors replaced by :class:`Value`."""

    name: str
    target: torch._ops.OpOverload
    arguments: dict[str, Any]
    outputs: tuple[Value, ...]
    module: str

    def __getstate__(self) -> dict[str, Any]:
        operator = self.target
        return vars(self) | {
            "target": (operator.namespace, operator._opname, operator._overloadname)
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        namespace, name, overload = state["target"]
        packet = getattr(getattr(torch.ops, namespace), name)
        vars(self).update(state | {"target": getattr(packet, overload)})

    @property
    def inputs(self) -> list[Value]:
        return [x for x in tree_flatten(self.arguments)[0] if isinstance(x, Value)]

    def __str__(self) -> str:
        shapes = ", ".join(str(list(o.shape)) for o in self.outputs)
        return f"{self.name} -> {shapes} in {self.module or 'the root module'}"


@dataclass
class Trace:
    """The operations of one forward pass that depend on the input or on a parameter, in order."""

    nodes: list[Node]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    tensors: dict[int, str]
    """Name of the parameter or buffer that a value is."""
    constants: dict[int, Tensor] = field(default_factory=dict)
    """What a value holds that depends on no input, parameter or buffer, as a mask does."""
    used: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Shape of each parameter and buffer, used in the forward pass or not; a tied one appears once."""


@torch.inference_mode(False)  # inference tensors keep composite operations whole
def trace(
    module: nn.Module,
    *inputs: Tensor,
    values: bool = False,
    tensors: Params | None = None,
    keep: dict[int, Tensor] | None = None,
) -> Trace:
    """Record the forward pass of ``module`` on inputs of these shapes and dtypes.

    Args:
        module: Run in evaluation mode; its tensors are never touched, and its mode and whatever the
            forward pass assigns to its attributes, such as a kept activation, are put back.
        inputs: Example inputs; with ``values=False`` only their shapes and dtypes matter.
        values: Compute with real values, for modules whose control flow depends on them.
        tensors: Values for all parameters and buffers in place of the module's own.
        keep: Filled with a copy of what every operation makes, by the id of its value.
    """
    state = state_of(module) if tensors is None else tensors
    if values:
        device = next(iter(state.values())).device
        given, state_in = (
            tuple(x.detach().to(device) for x in inputs),
            {k: v.detach() for k, v in state.items()},
        )
    else:
        given, state_in = (
            tuple(x.to("meta") for x in inputs),
            {k: v.to("meta") for k, v in state.items()},
        )
    recorder = _Recorder(meta=not values, keep=keep)
    for x in (*given, *state_in.values()):
        recorder.taint(x)
    with (
        _in_evaluation_mode(module),
        torch.no_grad(),
        recorder.follow(module),
        _plain_kernels(),
        recorder,
        _ListsAsTensors(),
    ):
        result = torch.func.functional_call(module, state_in, given)
    outputs = tuple(recorder.value(x) for x in tree_flatten(result)[0] if isinstance(x, Tensor))
    if not outputs:
        raise ValueError(f"the forward pass of {type(module).__name__} returned no tensor")
    return Trace(
        recorder.dependent(),
        tuple(recorder.value(x) for x in given),
        outputs,
        {recorder.value(v).id: k for k, v in state_in.items()},
        recorder.constants,
        {k: tuple(v.shape) for k, v in state.items()},
    )


def state_of(module: nn.Module) -> Params:
    """Parameters and buffers by name, each tensor once (tied ones under their first name)."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def names_of(module: nn.Module) -> dict[str, list[str]]:
    """All names of each parameter and buffer, by its first; a tied one has several."""
    first: dict[int, str] = {}
    names: dict[str, list[str]] = {}
    for listed in (module.named_parameters, module.named_buffers):
        for name, value in listed(remove_duplicate=False):
            names.setdefault(first.setdefault(id(value), name), []).append(name)
    return names


def aliases_of(module: nn.Module) -> dict[str, str]:
    """The first name of each tied tensor, by its others."""
    listed = names_of(module).items()
    return {name: first for first, names in listed for name in names if name != first}


@contextlib.contextmanager
def _in_evaluation_mode(module: nn.Module) -> Iterator[None]:
    with unchanged(module), _without_hooks(module), without_process_wide_hooks():
        for part in module.modules():
            part.training = False
        yield


@contextlib.contextmanager
def _without_hooks(module: nn.Module) -> Iterator[None]:
    """Without the user's forward hooks, which are for runs of the user's own. Those of PyTorch stay, as they compute
    weights."""
    taken = []
    for part in module.modules():
        for kind in ("_forward_pre_hooks", "_forward_hooks"):
            hooks = getattr(part, kind)
            kept = {
                key: hook
                for key, hook in hooks.items()
                if str(getattr(hook, "__module__", "")).startswith("torch.")
            }
            if len(kept) < len(hooks):
                taken.append((part, kind, hooks))
                setattr(part, kind, OrderedDict(kept))
    try:
        yield
    finally:
        for part, kind, hooks in taken:
            setattr(part, kind, hooks)


@contextlib.contextmanager
def _plain_kernels() -> Iterator[None]:
    """Attention and recurrent layers as their elementary operations instead of one fused kernel."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the flags below announce hardware that is not there
        with (
            plain_attention(),
            torch.backends.mkldnn.flags(enabled=False),
            torch.backends.cudnn.flags(enabled=False),
        ):
            yield


class _Recorder(TorchDispatchMode):
    def __init__(self, *, meta: bool, keep: dict[int, Tensor] | None = None) -> None:
        super().__init__()
        self.meta = meta
        self.keep = keep
        self.nodes: list[tuple[Node, set[int], set[int]]] = []
        self._ids: dict[int, Value] = {}
        self._alive: list[Tensor] = []  # keeps every id() unique while recording
        self._tainted: set[int] = set()
        self._path: list[str] = [""]
        self.constants: dict[int, Tensor] = {}
        """What the constants hold that operations on data read, by the ids of their values."""
        self._constants = Constants(meta=meta)

    def value(self, x: Tensor) -> Value:
        if id(x) not in self._ids:
            self._renew(x)
        return self._ids[id(x)]

    def _renew(self, x: Tensor) -> None:
        self._ids[id(x)] = Value(len(self._alive), tuple(x.shape))
        self._alive.append(x)

    def taint(self, x: Tensor) -> None:
        self.value(x)
        self._tainted.add(storage(x))

    @contextlib.contextmanager
    def follow(self, module: nn.Module) -> Iterator[None]:
        """Know in which submodule each operation runs."""
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
        args, kwargs = tree_map(self._joined, (args, dict(kwargs or {})))
        if self.meta and kwargs.get("device") is not None:
            kwargs["device"] = torch.device("meta")
        out = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        inputs = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        outputs = [x for x in tree_flatten(out)[0] if isinstance(x, Tensor)]
        if name in _TRANSPARENT and inputs and _keeps(inputs[0], outputs[0]):
            self._alive.append(outputs[0])
            self._ids[id(outputs[0])] = self.value(inputs[0])
            name = "identity"
        else:
            name = name[:-1] if name.endswith("_") and not name.startswith("__") else name
            name = _CANONICAL.get(name, name)
        arguments = tree_map(
            lambda x: self.value(x) if isinstance(x, Tensor) else x, _by_name(func, args, kwargs)
        )
        if not self._constants.compute(func, name, args, kwargs, outputs):
            name, arguments = with_numbers(func, name, arguments, self._read(inputs))
        for x in outputs:
            if any(x is y for y in inputs):
                self._renew(x)  # changed in place: a new value in the same tensor
        node = Node(name, func, arguments, tuple(self.value(x) for x in outputs), self._path[-1])
        if self.keep is not None and name != "identity":
            self.keep |= {self.value(x).id: x.clone() for x in outputs}
        self.nodes.append((node, {storage(x) for x in inputs}, {storage(x) for x in outputs}))
        return out

    def _joined(self, x: Any) -> Any:
        """Constants made elsewhere, as a plain tensor attribute is, join the rest."""
        if not isinstance(x, Tensor) or id(x) in self._ids:
            return x
        joined = x.to("meta") if self.meta else x
        self.value(joined)
        self._constants.enter(joined, x)
        return joined

    def _read(self, inputs: list[Tensor]) -> dict[Value, Tensor]:
        """Keep what the constants among the inputs hold."""
        values = {self.value(x): v for x in inputs if (v := self._constants.value(x)) is not None}
        for value, held in values.items():
            if value.id not in self.constants:
                self.constants[value.id] = held.clone() if held.numel() <= LARGEST else held
        return values

    def dependent(self) -> list[Node]:
        """The nodes that data flows through: constants are no part of the correspondence."""
        nodes = [n for n in self.nodes if n[0].name not in CREATION]
        size = -1
        while size != len(self._tainted):  # a buffer filled through a view taints its earlier views
            size = len(self._tainted)
            for _, reads, writes in nodes:
                if (reads | writes) & self._tainted:
                    self._tainted |= writes
        return [
            node
            for node, reads, writes in nodes
            if node.name != "identity" and (reads | writes) & self._tainted
        ]


class _ListsAsTensors(TorchFunctionMode):
    """Indices written as lists reach the recorder with their values: ``x[[0, 2]]`` is ``x[tensor([0, 2])]``."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            x, index, *rest = args
            given = index if isinstance(index, tuple) else (index,)
            given = tuple(torch.tensor(i) if _whole_numbers(i) else i for i in given)
            args = (x, given if isinstance(index, tuple) else given[0], *rest)
        return func(*args, **(kwargs or {}))


def _whole_numbers(index: Any) -> bool:
    """Whether an index is a list of them, or of lists of them."""
    return (
        isinstance(index, list)
        and bool(index)
        and all(isinstance(i, int) or _whole_numbers(i) for i in index)
    )


def _keeps(x: Tensor, y: Tensor) -> bool:
    """Whether a copy holds what the original does: numbers that become whole, or true and false, do not."""
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
