"""Run a model so that its derivatives are right to fourth order.

∇‖H v‖² is a third derivative. PyTorch's fused kernels of ``layer_norm``, ``instance_norm`` and
train-mode ``batch_norm`` get the third derivative silently wrong; the kernel of ``weight_norm`` gets the
second wrong. Fused attention and the recurrent kernels of cuDNN and mkldnn have no second derivative,
``hardsigmoid`` has no third. Dropout is another function at each call.

Inside `differentiable` such a kernel is replaced by a composite of elementary operations or by the plain kernel, and
a dropout mask is seeded. That includes calls of ``torch.ops.aten``. No module is changed, and values agree to rounding.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.backends import cudnn, mkldnn

from phiopt._attention import plain_attention
from phiopt.derivatives.mode import FunctionMode

aten: Any = torch.ops.aten


@contextmanager
def differentiable() -> Iterator[None]:
    """Within this context the calls of PyTorch functions are differentiable to fourth order.

    The context is for pure functions. A layer uses batch statistics, but does not record them. PyTorch's process-wide
    switches, which choose the kernel of attention, are set inside and restored at the end.

        >>> x = torch.randn(2, 3)
        >>> with differentiable():
        ...     y = F.layer_norm(x, (3,))
    """
    with plain_attention(), _Composites():
        yield


class _Composites(FunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.masks = 0  # dropout masks drawn so far in this forward pass

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func in _DROPOUTS:
            self.masks += 1
            return _seeded(self.masks, func, *args, **kwargs)
        packet = getattr(
            func, "overloadpacket", func
        )  # aten.layer_norm for aten.layer_norm.default
        return _COMPOSITES.get(packet, func)(*args, **kwargs)


def _standardise(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    centred = x - x.mean(axes, keepdim=True)
    return centred * torch.rsqrt((centred * centred).mean(axes, keepdim=True) + eps)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is not None:
        x = x * weight
    return x if bias is None else x + bias


def _channels(parameter: Tensor | None, x: Tensor) -> Tensor | None:
    """A vector over the channels, shaped to broadcast over axis 1 of ``x``."""
    return None if parameter is None else parameter.view(-1, *[1] * (x.dim() - 2))


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    axes = tuple(range(-len(normalized_shape), 0))
    return _affine(_standardise(input, axes, eps), weight, bias)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    if (
        not training
    ):  # unlike torch.batch_norm, F.batch_norm has the statistics before the affine part
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    axes = (0, *range(2, input.dim()))
    normal = _standardise(input, axes, eps)
    return _affine(normal, _channels(weight, input), _channels(bias, input))


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    if not use_input_stats:
        return F.instance_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    normal = _standardise(input, tuple(range(2, input.dim())), eps)
    return _affine(normal, _channels(weight, input), _channels(bias, input))


def _torch_batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = True,
) -> Tensor:
    return _batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


def _torch_instance_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = True,
) -> Tensor:
    return _instance_norm(
        input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps
    )


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    axes = tuple(axis for axis in range(v.dim()) if dim == -1 or axis != dim % v.dim())
    return v * (g * (v * v).sum(axes, keepdim=dim != -1).rsqrt())


def _embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """An embedding whose derivative is dense and not rescaled."""
    return _shortened(F.embedding(input, weight, padding_idx), max_norm, norm_type)


def _embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """As `_embedding`, for bags of rows."""
    return F.embedding_bag(
        input,
        _shortened(weight, max_norm, norm_type),
        offsets,
        mode=mode,
        per_sample_weights=per_sample_weights,
        include_last_offset=include_last_offset,
        padding_idx=padding_idx,
    )


def _shortened(rows: Tensor, max_norm: float | None, norm_type: float) -> Tensor:
    """Embedding rows whose length is limited by ``max_norm``, as a copy. PyTorch shortens the rows in the table
    itself, which here is the solver's w, and leaves the shortening out of the derivative.
    """
    if max_norm is None:
        return rows

    def length(rows: Tensor) -> Tensor:
        return torch.linalg.vector_norm(rows, norm_type, -1, keepdim=True)

    long = length(rows.detach()) > max_norm
    # The norm of a row of zeros has no derivative, so rows that stay as they are become ones.
    scale = max_norm / (length(torch.where(long, rows, 1.0)) + 1e-7)
    return torch.where(long, rows * scale, rows)


def _hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    result = F.relu6(input + 3) / 6
    return input.copy_(result) if inplace else result


def _mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    old = size_average is not None or reduce is not None
    if old or weight is not None or input.shape != target.shape:  # it warns of shapes that differ
        kernel: Callable[..., Tensor] = F.mse_loss  # its type stub has no weight
        return kernel(input, target, size_average, reduce, reduction, weight)
    errors = (input - target) ** 2
    return {"none": errors, "mean": errors.mean(), "sum": errors.sum()}[reduction]


def _plain_recurrent(kernel: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    # mkldnn.flags would set the TF32 switch too, and warn where there is no such switch.
    enabled, *_ = mkldnn.set_flags(_enabled=False, _fp32_precision=None)
    try:
        with cudnn.flags(enabled=False):
            return kernel(*args, **kwargs)
    finally:
        mkldnn.set_flags(_enabled=enabled, _fp32_precision=None)


def _seeded(seed: int, dropout: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Dropout with the same mask in every pass. The global generators are not used."""
    given = inspect.signature(dropout).bind(*args, **kwargs)
    given.apply_defaults()
    if not given.arguments["training"]:
        return dropout(*args, **kwargs)
    device = given.arguments["input"].device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        return dropout(*args, **kwargs)


_DROPOUTS = frozenset(
    {
        F.dropout,
        F.dropout1d,
        F.dropout2d,
        F.dropout3d,
        F.alpha_dropout,
        F.feature_alpha_dropout,
    }
)

_COMPOSITES: dict[Callable[..., Any], Callable[..., Any]] = {
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.batch_norm: _batch_norm,
    torch.batch_norm: _torch_batch_norm,
    F.instance_norm: _instance_norm,
    torch.instance_norm: _torch_instance_norm,
    torch._weight_norm: _weight_norm,
    F.embedding: _embedding,
    F.embedding_bag: _embedding_bag,
    F.hardsigmoid: _hardsigmoid,
    F.mse_loss: _mse_loss,
    **{
        f: partial(_plain_recurrent, f)
        for f in (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)
    },
    # The same functions as operators. Exported programs call these.
    aten.layer_norm: _layer_norm,
    aten.batch_norm: _torch_batch_norm,
    aten.instance_norm: _torch_instance_norm,
    aten._weight_norm: _weight_norm,
    aten.hardsigmoid: _hardsigmoid,
    **{
        f: partial(_plain_recurrent, f) for f in (aten.lstm, aten.gru, aten.rnn_tanh, aten.rnn_relu)
    },
}
