"""Tables of positions between image sizes: they are resampled as timm does, and the map says so."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from phiopt import lift as lifts
from phiopt.growth import GrowthMap, compare, grow
from tests.growth.nets import randomised

FILLS = ["net2wider", *(pytest.param(f, marks=pytest.mark.slow) for f in ("zero-out", "vv-zz"))]


def images(height, width):
    source = torch.Generator().manual_seed(4)
    return torch.randn(2, 3, height, width, generator=source, dtype=torch.float64)


def bicubic(rows, old, new):
    """Rows of a grid, shape ``(h w, width)``, at the points of another grid."""
    grid = rows.T.reshape(1, -1, *old)
    return F.interpolate(grid, new, mode="bicubic", antialias=True)[0].flatten(1).T


class Patches(nn.Module):
    """Patches of 4 x 4 pixels, class tokens before them, a table of positions, and a layer that mixes positions.

    Args:
        grid: Patches from top to bottom and from left to right.
        first: The number of class tokens.
        flat: Whether the table has one axis for both.
    """

    def __init__(self, grid, first=1, width=8, flat=True):
        super().__init__()
        self.patch, self.head = nn.Conv2d(3, width, 4, 4), nn.Linear(width, 5)
        self.first, self.flat = nn.Parameter(torch.zeros(1, first, width)), flat
        rows = first + grid[0] * grid[1]
        self.table = nn.Parameter(
            torch.zeros(1, rows, width) if flat else torch.zeros(1, width, *grid)
        )

    def forward(self, x):
        x = self.patch(x) if self.flat else self.patch(x) + self.table
        x = x.flatten(2).transpose(1, 2)
        if self.flat:
            x = torch.cat([self.first.expand(len(x), -1, -1), x], 1) + self.table
        return self.head(F.scaled_dot_product_attention(x, x, x).mean(1))


def pair(make, old, new):
    return tuple(randomised(make(grid).double(), i).eval() for i, grid in enumerate((old, new)))


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize(("old", "new"), [((4, 4), (8, 8)), ((3, 4), (5, 6))])
@pytest.mark.parametrize("first", [0, 1, 2])
def test_a_table_of_positions_is_resampled_and_class_tokens_keep_their_rows(first, old, new, fill):
    teacher, student = pair(lambda grid: Patches(grid, first), old, new)
    x = images(*(4 * n for n in old))
    lift = lifts.Resize(tuple(4 * n for n in new))
    growth = GrowthMap.between(teacher, student, inputs=x, lift=lift)
    assert any(
        "table: a table of positions is resampled bicubically" in r for r in growth.inexact_reasons
    )
    table = grow(teacher, student, fill, map=growth).table[0]
    assert torch.equal(table[:first], teacher.table[0, :first])
    expected = bicubic(teacher.table[0, first:], old, new)
    torch.testing.assert_close(table[first:], expected)


def test_a_table_in_rows_and_columns_is_resampled_beside_new_units():
    teacher, student = (
        randomised(Patches(grid, 0, width, flat=False).double(), width).eval()
        for grid, width in (((4, 4), 8), ((6, 6), 12))
    )
    growth = GrowthMap.between(teacher, student, inputs=images(16, 16), lift=lifts.Resize((24, 24)))
    grown = grow(teacher, student, "zero-out", map=growth)
    expected = F.interpolate(teacher.table, (6, 6), mode="bicubic", antialias=True)
    torch.testing.assert_close(grown.table[:, :8], expected)


class Flexible(Patches):
    """It takes images of any size, for it resamples its table in the forward pass."""

    def __init__(self, grid):
        super().__init__(grid, 0)
        self.img_size = tuple(4 * n for n in grid)

    def forward(self, x):
        x = self.patch(x)
        table = self.table.transpose(1, 2)
        if x[0, 0].numel() != table.shape[2]:
            grid = table.unflatten(2, [n // 4 for n in self.img_size])
            table = F.interpolate(grid, x.shape[2:], mode="bicubic").flatten(2)
        return self.head((x.flatten(2) + table).tanh().mean(2))


def test_images_are_resized_to_the_size_that_the_student_says_it_is_made_for():
    teacher, student = pair(Flexible, (4, 4), (6, 8))
    growth = GrowthMap.between(teacher, student, inputs=images(16, 16))
    assert growth.lift == lifts.Resize((24, 32))
    table = grow(teacher, student, "zero-out", map=growth).table[0]
    torch.testing.assert_close(table, bicubic(teacher.table[0], (4, 4), (6, 8)))


def test_a_student_with_resampled_positions_is_nearer_to_its_teacher():
    teacher, student = pair(Patches, (4, 4), (8, 8))
    x = F.interpolate(images(4, 4), (16, 16), mode="bilinear")
    growth = GrowthMap.between(teacher, student, inputs=x)
    changes = [
        compare(teacher, grow(teacher, student, fill, map=growth), growth, inputs=x).max_rel
        for fill in ("zero-out", "default")
    ]
    assert changes[0] < 0.75 * changes[1]


class Window(nn.Module):
    """Attention with a bias for each offset within one window, and the same with positions that are shifted."""

    def __init__(self, side, more=0, shift=0, first=False):
        super().__init__()
        self.patch, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 5)
        self.table = nn.Parameter(torch.zeros((2 * side - 1) ** 2 + more, 2))
        self.first = nn.Parameter(torch.zeros(1, 1, 8)) if first else None
        y, x = torch.arange(side**2) // side, torch.arange(side**2) % side
        offsets = (y[:, None] - y + side - 1) * (2 * side - 1) + x[:, None] - x + side - 1
        if first:
            offsets = F.pad(offsets, (1, 0, 1, 0), value=len(self.table) - 1)
        self.register_buffer("offsets", offsets, persistent=False)
        self.shift = shift

    def forward(self, x):
        x = self.patch(x)
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (2, 3))
        x = x.flatten(2).transpose(1, 2)
        if self.first is not None:
            x = torch.cat([self.first.expand(len(x), -1, -1), x], 1)
        bias = self.table[self.offsets.view(-1)].view(*self.offsets.shape, -1).permute(2, 0, 1)
        q = x.unflatten(-1, (2, 4)).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, q, q, attn_mask=bias[None])
        return self.head(y.transpose(1, 2).flatten(2).mean(1))


@pytest.mark.parametrize("options", [{}, {"more": 3}, {"more": 1, "first": True}, {"shift": 1}])
def test_a_table_of_offsets_within_a_window_is_resampled(options):
    def make(side):
        return Window(side, **(options | {"shift": side // 4 if "shift" in options else 0}))

    teacher, student = pair(make, 4, 8)
    growth = GrowthMap.between(teacher, student, inputs=images(16, 16))
    assert any("7x7 to 15x15" in reason for reason in growth.inexact_reasons)
    table = grow(teacher, student, "zero-out", map=growth).table
    expected = bicubic(teacher.table[:49], (7, 7), (15, 15))
    torch.testing.assert_close(table[: 15**2], expected)
    assert torch.equal(table[15**2 :], teacher.table[49:])


def test_positions_are_resampled_as_timm_does():
    timm = pytest.importorskip("timm", reason="needs phiopt[families]")
    from timm.layers import resample_abs_pos_embed

    teacher, student = (
        timm.create_model(
            "vit_tiny_patch16_224", img_size=n, patch_size=8, depth=1, embed_dim=48
        ).eval()
        for n in (32, 64)
    )
    growth = GrowthMap.between(teacher, student, inputs=torch.zeros(2, 3, 32, 32))
    grown = grow(teacher, student, "zero-out", map=growth)
    expected = resample_abs_pos_embed(teacher.pos_embed, [8, 8])
    torch.testing.assert_close(grown.pos_embed, expected, atol=1e-5, rtol=1e-4)


def test_a_longer_context_keeps_the_first_rows():
    def make(rows):
        return nn.Sequential(nn.Embedding(9, 4), Rows(rows), nn.Linear(4, 9))

    teacher, student = (randomised(make(n).double(), n).eval() for n in (6, 9))
    tokens = torch.arange(12).reshape(2, 6) % 9
    growth = GrowthMap.between(teacher, student, inputs=tokens)
    grown = grow(teacher, student, "net2wider", map=growth)
    assert torch.equal(grown[1].table[:6], teacher[1].table)
    assert not growth.inexact_reasons


class Rows(nn.Module):
    def __init__(self, rows):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(rows, 4))

    def forward(self, x):
        return (x + self.table[: x.shape[1]]).tanh()
