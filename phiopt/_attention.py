"""Attention by its plain kernels."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.backends import mha
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def plain_attention() -> Iterator[None]:
    """Within, scaled-dot-product attention is matrix products and a softmax, and encoders of
    ``nn.TransformerEncoder`` take no fast path, on which a padding mask makes nested tensors. Both
    are PyTorch's process-wide switches, put back on the way out.
    """
    enabled = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        mha.set_fastpath_enabled(enabled)
