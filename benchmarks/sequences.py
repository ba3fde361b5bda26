"""Networks of sequences as people write them: recurrent, convolutional, and of attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Gated(nn.Module):
    """WaveNet's gates, tanh times sigmoid of dilated causal convolutions, with skip sums."""

    def __init__(self, residual: int, gate: int, skip: int, layers: int = 2) -> None:
        super().__init__()
        self.first = nn.Conv1d(4, residual, 1)
        self.gates = nn.ModuleList(
            nn.Conv1d(residual, 2 * gate, 2, dilation=2**i) for i in range(layers)
        )
        self.back = nn.ModuleList(nn.Conv1d(gate, residual, 1) for _ in range(layers))
        self.skip = nn.ModuleList(nn.Conv1d(gate, skip, 1) for _ in range(layers))
        self.head = nn.Conv1d(skip, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, total = self.first(x), 0.0
        for i, (gate, back, skip) in enumerate(zip(self.gates, self.back, self.skip, strict=True)):
            a, b = gate(F.pad(x, (2**i, 0))).chunk(2, 1)
            z = a.tanh() * b.sigmoid()
            x, total = x + back(z), total + skip(z)
        return self.head(F.relu(total))


class Tagger(nn.Module):
    """Embedding, recurrent core, a label for every token."""

    def __init__(
        self, kind: type[nn.RNNBase], embedding: int, hidden: int, **options: object
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, embedding)
        self.core = kind(embedding, hidden, batch_first=True, **options)  # type: ignore[arg-type]
        out = options.get("proj_size") or hidden
        assert isinstance(out, int)
        self.head = nn.Linear(out * (1 + bool(options.get("bidirectional"))), 6)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.core(self.embedding(tokens))[0]).transpose(1, 2)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation as people write it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


def rotated(x: Tensor) -> Tensor:
    """Rotary position embedding: halves of each head turned by the position's angle."""
    half = x.shape[-1] // 2
    rate = 100.0 ** (-torch.arange(half, device=x.device, dtype=x.dtype) / half)
    angle = torch.arange(x.shape[-2], device=x.device, dtype=x.dtype)[:, None] * rate
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)


class Attention(nn.Module):
    """Self-attention over SDPA or its formula, heads and their width free."""

    def __init__(
        self, width: int, heads: int, size: int, *, rotary: bool, fused: bool = True
    ) -> None:
        super().__init__()
        self.heads, self.size, self.rotary, self.fused = heads, size, rotary, fused
        self.qkv = nn.Linear(width, 3 * heads * size, bias=False)
        self.out = nn.Linear(heads * size, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        if self.rotary:
            q, k = rotated(q), rotated(k)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            y = (q @ k.transpose(-2, -1) * self.size**-0.5).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(b, n, -1))


class Decoder(nn.Module):
    """A language model of the LLaMA kind: RMSNorm, rotary attention, SwiGLU, output tied to the embedding."""

    def __init__(
        self, width: int, heads: int, size: int, hidden: int, *,
        rotary: bool = True, fused: bool = True, tied: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.embedding = nn.Embedding(13, width)
        self.norms = nn.ModuleList(RMSNorm(width) for _ in range(3))
        self.attention = Attention(width, heads, size, rotary=rotary, fused=fused)
        self.gate, self.up = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(hidden, width, bias=False)
        self.head = nn.Linear(width, 13, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        x = x + self.attention(self.norms[0](x))
        y = self.norms[1](x)
        x = x + self.down(F.silu(self.gate(y)) * self.up(y))
        return self.head(self.norms[2](x)).transpose(1, 2)


class GPT(nn.Module):
    """Learned positions, nn.MultiheadAttention under a causal mask, LayerNorm before each branch."""

    def __init__(self, width: int, heads: int, hidden: int, layers: int = 1) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(13, width), nn.Embedding(16, width)
        self.blocks = nn.ModuleList(GPTBlock(width, heads, hidden) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 13)

    def forward(self, tokens: Tensor) -> Tensor:
        n = tokens.shape[1]
        x = self.tokens(tokens) + self.positions(torch.arange(n, device=tokens.device))
        mask = torch.full((n, n), -torch.inf, device=x.device, dtype=x.dtype).triu(1)
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.norm(x)).transpose(1, 2)


class GPTBlock(nn.Module):
    """Attention and MLP, each a residual branch."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class TCN(nn.Module):
    """Temporal blocks: two dilated causal convolutions in a residual, the first one projected."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a = nn.ModuleList([nn.Conv1d(4, width, 3), nn.Conv1d(width, width, 3, dilation=2)])
        self.b = nn.ModuleList([nn.Conv1d(width, width, 3), nn.Conv1d(width, width, 3, dilation=2)])
        self.project = nn.Conv1d(4, width, 1)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        for i in range(2):
            pad = (2 * 2**i, 0)
            y = self.b[i](F.pad(self.a[i](F.pad(x, pad)).relu(), pad)).relu()
            x = (y + (self.project(x) if i == 0 else x)).relu()
        return self.head(x[:, :, -1])


class Cell(nn.Module):
    """A recurrent cell unrolled by a Python loop."""

    def __init__(self, hidden: int, kind: type[nn.LSTMCell | nn.GRUCell] = nn.LSTMCell) -> None:
        super().__init__()
        self.hidden, self.cell, self.head = hidden, kind(5, hidden), nn.Linear(hidden, 4)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


def encoder(width: int, heads: int, hidden: int) -> nn.Module:
    """``nn.TransformerEncoder`` on vectors."""
    layer = nn.TransformerEncoderLayer(width, heads, hidden, dropout=0.0, batch_first=True)
    stack = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return nn.Sequential(nn.Linear(6, width), stack, nn.Linear(width, 4))
