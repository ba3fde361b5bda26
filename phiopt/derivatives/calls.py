"""A record of a module's forward pass: the layers that run and their arguments, the PyTorch functions that they
call, and the kernels that run in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch._ops import OpOverload
from torch.overrides import resolve_name
from torch.utils._python_dispatch import TorchDispatchMode

from phiopt.derivatives.mode import FunctionMode

# fmt: off
KINKED = frozenset(
    {
        "abs", "amax", "amin", "aminmax", "ceil", "celu", "clamp", "clip", "elu", "floor",
        "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "hinge_embedding_loss",
        "huber_loss", "kthvalue", "l1_loss", "leaky_relu", "margin_ranking_loss", "max",
        "maximum", "median", "min", "minimum", "prelu", "relu", "relu6", "round", "rrelu",
        "selu", "sign", "smooth_l1_loss", "softshrink", "sort", "threshold", "topk",
        "max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d",
        "adaptive_max_pool2d", "adaptive_max_pool3d", "fractional_max_pool2d",
        "fractional_max_pool3d",
    }
)
# fmt: on
"""Functions whose value, first or second derivative jumps."""

CUTTING = frozenset({"detach", "detach_", "_set_grad_enabled"})
"""Functions that leave a part out of the derivative, `torch.no_grad` among them."""


@dataclass
class Call:
    """One layer's first call: its path in the model, and its arguments."""

    name: str
    module: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    functions: set[str] = field(default_factory=set)
    kernels: set[str] = field(default_factory=set)
    inner: bool = False

    @property
    def kinks(self) -> list[str]:
        """Names of the functions called here that have kinks."""
        plain = {f.removesuffix("_").removesuffix("_with_indices") for f in self.functions}
        return sorted(plain & KINKED)


@contextmanager
def recorded(model: nn.Module) -> Iterator[list[Call]]:
    """Inside this context the first calls of ``model`` and its submodules are recorded. The list has them, in order,
    once the context has ended.

    ``inner`` marks a call inside which other modules were called. PyTorch functions and kernels are listed with the
    innermost module that called them.
    """
    calls: dict[int, Call] = {}
    stack: list[Call] = []

    def enter(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            for outer in stack:
                outer.inner = True
            stack.append(calls.setdefault(id(module), Call(name, module, args, kwargs)))

        return hook

    def leave(module: nn.Module, args: object, output: object) -> None:
        stack.pop()

    with (
        ExitStack() as exits,
        Functions(lambda: stack[-1].functions if stack else set()),
        Kernels(lambda: stack[-1].kernels if stack else set()),
    ):
        for name, module in model.named_modules():
            before = module.register_forward_pre_hook(enter(name), with_kwargs=True)
            after = module.register_forward_hook(leave, always_call=True)
            exits.callback(before.remove)
            exits.callback(after.remove)
        first_calls: list[Call] = []
        yield first_calls
        first_calls.extend(calls.values())


class Functions(FunctionMode):
    """Inside this context the names of all PyTorch functions called are added to ``names()``."""

    def __init__(self, names: Callable[[], set[str]]) -> None:
        super().__init__()
        self.names = names

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        named = getattr(func, "overloadpacket", func)
        name = resolve_name(named) or getattr(named, "__name__", "")
        self.names().add(name.rpartition(".")[2])
        return func(*args, **kwargs)


class Kernels(TorchDispatchMode):
    """Inside this context the names of all kernels that run are added to ``names()``, also of those that TorchScript
    runs. Kernels of batch normalisation are added only if they use batch statistics.
    """

    def __init__(self, names: Callable[[], set[str]]) -> None:
        super().__init__()
        self.names = names

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = dict(zip((a.name for a in func._schema.arguments), args, strict=False))
        if (given | (kwargs or {})).get("training", True):
            self.names().add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def custom_functions(value: Tensor) -> Iterator[str]:
    """Names of the ``torch.autograd.Function`` classes in the graph of ``value``. PyTorch cannot check their
    derivatives.
    """
    visited, queue = set(), [value.grad_fn]
    while queue:
        node = queue.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        if hasattr(node, "_forward_cls"):
            yield node._forward_cls.__name__
        queue.extend(following for following, _ in node.next_functions)


def tensors(value: Any) -> list[Tensor]:
    """The tensors in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for item in value for t in tensors(item)] if isinstance(value, (tuple, list)) else []
