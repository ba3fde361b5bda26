"""Attention by plain kernels."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.backends import mha
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def plain_attention() -> Iterator[None]:
    """Inside this context scaled-dot-product attention is computed by matrix products and a softmax, and
    ``nn.TransformerEncoder`` does not take its fast path, where a padding mask makes nested tensors. Both
    are PyTorch's process-wide switches, which are restored at the end.
    """
    enabled = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        mha.set_fastpath_enabled(enabled)
