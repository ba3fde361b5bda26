"""Small networks of every kind the growth map knows, at any width, and what holds of every map."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phiopt._modules import state_of, unsaved


def randomised(module, seed=0):
    """Every parameter and statistic random, so that no zero or one hides a mistake."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            scale = 0.3 if p.ndim < 2 else 1.0 / max(p[0].numel(), 1) ** 0.5
            centre = 1.0 if p.ndim == 1 and name.endswith("weight") else 0.0
            p.copy_(centre + scale * torch.randn(p.shape, generator=source, dtype=torch.float64))
        constant = unsaved(module)
        for name, b in module.named_buffers():
            if name in constant:
                continue
            if name.endswith("running_var"):
                b.copy_(0.5 + torch.rand(b.shape, generator=source, dtype=torch.float64))
            elif b.is_floating_point():
                b.copy_(torch.randn(b.shape, generator=source, dtype=torch.float64))
            else:
                b.fill_(7)
    return module


def mlp(*widths):
    layers = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def state(module):
    return {name: value.detach().clone() for name, value in state_of(module).items()}


def check_injective(growth, teacher, student):
    """extract(embed(u, w)) == u, nothing outside the mask moves, and as many places as coordinates."""
    u, w = state(teacher), state(student)
    embedded, mask = growth.embed(u, into=w), growth.mask()
    back = growth.extract(embedded)
    assert back.keys() == u.keys()
    assert all(torch.equal(back[name], u[name]) for name in u)
    assert mask.keys() == w.keys()
    assert all(torch.equal(embedded[n][~mask[n]], w[n][~mask[n]]) for n in w)
    assert sum(int(m.sum()) for m in mask.values()) == sum(v.numel() for v in u.values())


class Tagger(nn.Module):
    """A recurrent net that classifies a sequence."""

    def __init__(self, kind, features, hidden, classes, **options):
        super().__init__()
        self.core = kind(features, hidden, batch_first=True, **options)
        directions = 2 if options.get("bidirectional") else 1
        self.head = nn.Linear((options.get("proj_size") or hidden) * directions, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.core(x)[0][:, -1])


class Block(nn.Module):
    """One of the ways in which real networks wire channels; keeps or widens ``width`` channels."""

    def __init__(self, kind: str, width: int, inner: int):
        super().__init__()
        self.kind = kind
        self.out = width
        if kind == "residual":
            self.a, self.norm = nn.Conv2d(width, inner, 3, padding=1), nn.BatchNorm2d(inner)
            self.b = nn.Conv2d(inner, width, 1)
        elif kind == "gate":
            self.a, self.b = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1)
        elif kind == "concat":
            self.a, self.b = nn.Conv2d(width, inner, 1), nn.Conv2d(width, inner, 3, padding=1)
            self.out = width + 2 * inner
        elif kind == "depthwise":
            self.a = nn.Conv2d(width, width, 3, padding=1, groups=width)
        elif kind == "glu":
            self.a = nn.Conv2d(width, 2 * width, 1)
        elif kind == "group norm":
            self.norm = nn.GroupNorm(width // 2, width)
        elif kind == "shuffle":
            self.a = nn.Conv2d(width, width, 1, groups=2)
        elif kind == "split":
            self.a = nn.Conv2d(width, 2 * inner, 1)
            self.b = nn.Conv2d(inner, inner, 1)
            self.out = 2 * inner

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "residual":
            return x + self.b(F.relu(self.norm(self.a(x))))
        if self.kind == "gate":
            return x * self.b(F.silu(self.a(x.mean((2, 3), keepdim=True)))).sigmoid()
        if self.kind == "concat":
            return torch.cat([x, F.relu(self.a(x)), self.b(x).tanh()], 1)
        if self.kind == "depthwise":
            return F.gelu(self.a(x))
        if self.kind == "glu":
            return F.glu(self.a(x), 1)
        if self.kind == "group norm":
            return self.norm(x)
        if self.kind == "shuffle":
            n, c, h, w = x.shape
            return self.a(x).view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        if self.kind == "split":
            left, right = self.a(x).chunk(2, 1)
            mixed = torch.cat([left, F.relu(self.b(right))], 1)
            n, c, h, w = mixed.shape
            return mixed.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        raise ValueError(self.kind)


KINDS = ("residual", "gate", "concat", "depthwise", "glu", "group norm", "shuffle", "split")


class Wired(nn.Module):
    """A stem, any blocks in a row, pooling or flattening, and a head."""

    def __init__(self, kinds, width, inner, classes, *, channels=1, flatten=False):
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        blocks = []
        for kind in kinds:
            blocks.append(Block(kind, width, inner))
            width = blocks[-1].out
        self.blocks = nn.ModuleList(blocks)
        self.flatten = flatten
        self.head = nn.Linear(width * (16 if flatten else 1), classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        x = F.max_pool2d(x, 2)
        return self.head(x.flatten(1) if self.flatten else x.mean((2, 3)))


class Attention(nn.Module):
    """A pre-norm Transformer written by hand: packed projections, position embedding, class token."""

    def __init__(self, width, heads, hidden, classes, *, norm=nn.LayerNorm):
        super().__init__()
        self.heads = heads
        self.embed = nn.Linear(6, width)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 5, width))
        self.norm1, self.norm2, self.norm3 = norm(width), norm(width), norm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.head = nn.Linear(width, classes)

    def attend(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        return self.project(
            F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, d)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x)], 1) + self.position
        x = x + self.attend(self.norm1(x))
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.head(self.norm3(x)[:, 0])


class Decoder(nn.Module):
    """A language model: tied embeddings, RMS norm by hand, rotary positions, grouped queries, gates."""

    def __init__(self, width, heads, pairs, hidden, vocabulary=11):
        super().__init__()
        self.heads, self.pairs = heads, pairs
        self.tokens = nn.Embedding(vocabulary, width)
        self.norms = nn.ModuleList([RootMeanSquare(width) for _ in range(3)])
        self.query = nn.Linear(width, heads * 4, bias=False)
        self.key = nn.Linear(width, pairs * 4, bias=False)
        self.value = nn.Linear(width, pairs * 4, bias=False)
        self.project = nn.Linear(heads * 4, width, bias=False)
        self.gate, self.up = nn.Linear(width, hidden), nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.out = nn.Linear(width, vocabulary, bias=False)
        self.out.weight = self.tokens.weight

    def attend(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (
            f(x).view(n, t, -1, 4).transpose(1, 2) for f in (self.query, self.key, self.value)
        )
        q, k = self.rotated(q), self.rotated(k)
        k, v = (z.repeat_interleave(self.heads // self.pairs, 1) for z in (k, v))
        scores = (q @ k.transpose(-2, -1) / 2).softmax(-1)
        return self.project((scores @ v).transpose(1, 2).reshape(n, t, -1))

    @staticmethod
    def rotated(x: Tensor) -> Tensor:
        angle = torch.arange(x.shape[-2], device=x.device)[:, None] / torch.tensor([1.0, 10.0])
        a, b = x.chunk(2, -1)
        return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens)
        x = x + self.attend(self.norms[0](x))
        h = self.norms[1](x)
        x = x + self.down(F.silu(self.gate(h)) * self.up(h))
        return self.out(self.norms[2](x))


class RootMeanSquare(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


def well_formed(kinds):
    """Grouped blocks directly behind unequal branches have no separable places: keep them in front."""
    return sorted(kinds, key=lambda kind: kind in ("concat", "split"))
