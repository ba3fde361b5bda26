"""A lift that moves the teacher's inputs is followed to where it puts them, or the map says that it is not."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phiopt import lift as lifts
from phiopt.growth import AlignmentError, GrowthMap, compare, grow
from tests.growth.nets import mlp, randomised

FILLS = ["zero-out", "net2wider", "vv-zz"]


class Tokens(nn.Module):
    """A language model whose output may read the table of its input."""

    def __init__(self, vocabulary: int, width: int = 8, *, tied: bool = False, bias=False) -> None:
        super().__init__()
        self.table, self.mix = nn.Embedding(vocabulary, width), nn.Linear(width, width)
        self.head = nn.Linear(width, vocabulary, bias=bias)
        if tied:
            self.head.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.mix(self.look_up(tokens)).tanh())

    def look_up(self, tokens: Tensor) -> Tensor:
        return self.table(tokens)


class ByIndex(Tokens):
    def look_up(self, tokens: Tensor) -> Tensor:
        return self.table.weight[tokens]


class Shifted(Tokens):
    """The first row is for no token."""

    def look_up(self, tokens: Tensor) -> Tensor:
        return self.table(tokens + 1)


def exact(teacher, student, fill, **options):
    teacher, student = randomised(teacher.double(), 0), randomised(student.double(), 1)
    growth = GrowthMap.between(teacher, student, **options)
    grown = grow(teacher, student, fill, map=growth)
    x = options["inputs"]
    result = compare(teacher, grown, growth, inputs=x)
    assert result.exact, result
    return growth


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "to",
    [[3, 9, 0, 5, 1], [5, 6, 7, 8, 9], [4, 3, 2, 1, 0]],
    ids=["spread", "behind", "equal size"],
)
def test_a_reordered_vocabulary_is_followed(tied, bias, to, fill):
    ids, size = torch.tensor(to), 10 if max(to) > 4 else 5
    growth = exact(
        Tokens(5, tied=tied, bias=bias), Tokens(size, tied=tied, bias=bias), fill,
        lift=lambda t: ids[t], classes=ids, inputs=torch.arange(20).reshape(4, 5) % 5,
    )  # fmt: skip
    assert growth.placements["table.weight"].index_maps[0].tolist() == to
    assert not growth.inexact_reasons
    listed = f"table.weight, axis 0: 0, 1, 2, 3, 4 -> {', '.join(map(str, to))}"
    assert (listed if to != sorted(to) else "[5:10, 0:8]") in str(growth)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("ids", [(3, 9, 0, 5, 1), (0, 1, 3, 4, 6)], ids=["reordered", "inserted"])
def test_tokens_move_rows_and_classes_and_are_saved(ids, tied, tmp_path):
    lift, models = lifts.Tokens(ids), (Tokens(5, tied=tied), Tokens(10, tied=tied))
    growth = exact(*models, "zero-out", lift=lift, inputs=torch.arange(20).reshape(4, 5) % 5)
    assert growth.classes.tolist() == list(ids)
    assert growth.placements["table.weight"].index_maps[0].tolist() == list(ids)
    growth.save(tmp_path / "map")
    assert GrowthMap.load(tmp_path / "map", *models).lift == lift


class Recommender(nn.Module):
    """A score of every item for a user: the input looks up users, and the output has a class for each item."""

    def __init__(self, users: int, items: int) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(users, 8), nn.Embedding(items, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.users(x).tanh() @ self.items.weight.T


@pytest.mark.parametrize("items", [(7, 2, 0, 8, 4, 1), (7, 2, 0, 8, 4)])
def test_users_move_with_the_tokens_and_items_with_the_classes(items):
    users, models = (3, 0, 6, 1, 2), (Recommender(5, len(items)), Recommender(7, 9))
    options = {"lift": lifts.Tokens(users), "classes": items, "inputs": torch.arange(4)}
    growth = exact(*models, "net2wider", **options)
    places = {name: place.index_maps[0].tolist() for name, place in growth.placements.items()}
    assert places == {"users.weight": list(users), "items.weight": list(items)}


@pytest.mark.parametrize("at", [(2, 1, 0), (1, 3, 0)])
def test_placed_channels_are_followed_and_saved(at, tmp_path):
    lift, x = lifts.Channels(4, "place", at=at), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    models = conv(3), conv(4)
    growth = exact(*models, "zero-out", lift=lift, inputs=x)
    growth.save(tmp_path / "map")
    assert GrowthMap.load(tmp_path / "map", *models).lift == lift


def test_a_fourth_channel_is_zero_by_default_and_the_map_says_so():
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    growth = exact(conv(3), conv(4), "zero-out", inputs=x)
    assert growth.lift == lifts.Channels(4, "place")
    assert "lift: Channels(channels=4, mode='place', at=0)" in str(growth)


@pytest.mark.parametrize("kind", [ByIndex, Shifted])
def test_rows_are_followed_however_they_are_looked_up(kind):
    more = int(kind is Shifted)
    ids = torch.tensor([3, 9, 0, 5, 1])
    growth = exact(
        kind(5 + more), kind(10 + more), "zero-out",
        lift=lambda t: ids[t], inputs=torch.arange(20).reshape(4, 5) % 5,
    )  # fmt: skip
    expected = [i + more for i in ids.tolist()]
    assert growth.placements["table.weight"].index_maps[0].tolist()[more:] == expected


def test_the_classes_of_a_tied_table_are_where_its_rows_are():
    ids = torch.tensor([3, 9, 0, 5, 1])
    both = {"lift": lambda t: ids[t], "inputs": torch.zeros(2, 4, dtype=torch.long)}
    growth = GrowthMap.between(Tokens(5, tied=True), Tokens(10, tied=True), **both)
    assert growth.classes.tolist() == ids.tolist()
    with pytest.raises(ValueError, match=r"classes=\[0, 1, 2, 3, 4\] do not fit"):
        GrowthMap.between(Tokens(5, tied=True), Tokens(10, tied=True), classes=range(5), **both)


def test_columns_with_tables_of_their_own_are_followed_each():
    class Columns(nn.Module):
        def __init__(self, *sizes: int) -> None:
            super().__init__()
            self.tables = nn.ModuleList(nn.Embedding(n, 4) for n in sizes)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.cat([t(x[:, i]) for i, t in enumerate(self.tables)], -1).tanh())

    first, second = torch.tensor([2, 0, 1]), torch.tensor([6, 5, 1, 0])
    growth = exact(
        Columns(3, 4), Columns(5, 7), "zero-out",
        lift=lambda x: torch.stack([first[x[:, 0]], second[x[:, 1]]], 1),
        inputs=torch.tensor([[0, 3], [1, 2], [2, 1], [0, 0]]),
    )  # fmt: skip
    assert growth.placements["tables.0.weight"].index_maps[0].tolist() == [2, 0, 1]
    assert growth.placements["tables.1.weight"].index_maps[0].tolist() == [6, 5, 1, 0]


def test_rows_that_no_token_leads_to_find_room():
    ids = torch.tensor([3, 0, 1])
    growth = exact(
        Tokens(5), Tokens(6), "zero-out", lift=lambda t: ids[t], inputs=torch.tensor([[0, 1, 2]])
    )
    places = growth.placements["table.weight"].index_maps[0].tolist()
    assert places[:3] == [3, 0, 1]
    assert len(set(places)) == 5


def test_tokens_that_meet_in_one_row_or_outside_are_remarked():
    for ids in ([0, 0, 1, 2, 3], [0, 1, 2, 3, 99]):
        growth = GrowthMap.between(
            Tokens(5), Tokens(10), lift=lambda t, i=ids: torch.tensor(i)[t],
            inputs=torch.zeros(2, 4, dtype=torch.long),
        )  # fmt: skip
        assert any(
            "table: which rows the lift's inputs look up" in r for r in growth.inexact_reasons
        )


@pytest.mark.parametrize("fill", FILLS)
def test_new_tokens_in_front_shift_the_positions(fill):
    class Placed(nn.Module):
        def __init__(self, length: int) -> None:
            super().__init__()
            self.table, self.at = nn.Embedding(9, 4), nn.Parameter(torch.zeros(length, 4))
            self.head = nn.Linear(4 * length, 3)

        def forward(self, t: Tensor) -> Tensor:
            return self.head((self.table(t) + self.at).tanh().flatten(1))

    growth = exact(
        Placed(4), Placed(6), fill,
        lift=lambda t: F.pad(t, (2, 0), value=8), inputs=torch.arange(8).reshape(2, 4),
    )  # fmt: skip
    assert growth.placements["at"].index_maps[0].tolist() == [2, 3, 4, 5]
    assert growth.placements["table.weight"].index_maps[0].tolist() == list(range(9))


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize(
    ("lift", "size", "places"),
    [
        (lambda x: x.flip(1), 4, [3, 2, 1, 0]),
        (lambda x: torch.stack([x, torch.zeros_like(x)], 2).flatten(1), 8, [0, 2, 4, 6]),
        (lambda x: torch.cat([x.new_ones(len(x), 2), x], 1), 6, [2, 3, 4, 5]),
        (lambda x: x.repeat(1, 2), 8, [0, 1, 2, 3]),
        (lambda x: x[:, [2, 0, 3, 1]], 4, [1, 3, 0, 2]),
    ],
    ids=["flipped", "between", "in front", "repeated", "permuted"],
)
def test_features_are_followed(lift, size, places, fill):
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).double()
    growth = exact(mlp(4, 8, 3), mlp(size, 12, 5), fill, lift=lift, inputs=x)
    assert growth.placements["0.weight"].index_maps[1].tolist() == places
    assert not growth.inexact_reasons


def conv(channels: int, kernel: int = 3) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 6, kernel, padding=kernel // 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(96, 3),
    )


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize(
    ("lift", "channels", "places"),
    [
        (lambda x: x.flip(1), 3, [2, 1, 0]),
        (lambda x: torch.stack([x, 0 * x], 2).flatten(1, 2), 6, [0, 2, 4]),
        (lambda x: torch.cat([x[:, :1], x.mean(1, keepdim=True), x[:, 1:]], 1), 4, [0, 2, 3]),
    ],
    ids=["flipped", "between", "mean between"],
)
def test_channels_are_followed(lift, channels, places, fill):
    x = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    growth = exact(conv(3), conv(channels), fill, lift=lift, inputs=x)
    assert growth.placements["0.weight"].index_maps[1].tolist() == places


def test_pixels_are_followed_where_no_window_slides_over_them():
    x = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    flat = nn.Sequential(nn.Flatten(), nn.Linear(48, 6), nn.Tanh(), nn.Linear(6, 3))
    wide = nn.Sequential(nn.Flatten(), nn.Linear(48, 9), nn.Tanh(), nn.Linear(9, 3))
    exact(flat, wide, "zero-out", lift=lambda x: x[:, :, [1, 3, 0, 2]].flip(3), inputs=x)
    exact(conv(3, 1), conv(3, 1), "zero-out", lift=lambda x: x.flip(3), inputs=x)
    growth = GrowthMap.between(conv(3), conv(3), lift=lambda x: x.flip(3), inputs=x.float())
    assert any("no longer beside their neighbours" in r for r in growth.inexact_reasons)


@pytest.mark.parametrize(
    ("lift", "reason"),
    [
        (lambda x: x.transpose(2, 3), "along several axes at once"),
        (lambda x: x - x.mean(), "mixes coordinates"),
        (lambda x: 2 * x, "changes the values"),
        (lambda x: torch.zeros_like(x), "drops coordinates"),
        (lambda x: x + 0.1 * torch.randn_like(x), "lift"),
    ],
)
def test_what_cannot_be_followed_is_remarked(lift, reason):
    x, teacher, student = torch.zeros(2, 3, 4, 4), conv(3), conv(3)
    state = torch.get_rng_state()
    growth = GrowthMap.between(teacher, student, lift=lift, inputs=x)
    assert any(r.startswith("the input: lift") and reason in r for r in growth.inexact_reasons)
    if reason != "lift":
        assert torch.equal(torch.get_rng_state(), state)


def test_a_lift_that_says_where_is_not_probed():
    x = torch.zeros(2, 3, 4, 4)
    growth = GrowthMap.between(conv(3), conv(3), inputs=x, lift=lifts.Identity())
    assert not growth.inexact_reasons


@pytest.mark.parametrize("fill", FILLS)
def test_classes_of_an_output_of_equal_size_may_change_their_order(fill):
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).double()
    growth = exact(mlp(4, 8, 3), mlp(4, 12, 3), fill, classes=[2, 0, 1], inputs=x)
    assert growth.placements["2.bias"].index_maps[0].tolist() == [2, 0, 1]


def test_a_reordered_output_that_no_parameter_makes_is_refused():
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x).reshape(len(x), 3, 2).transpose(1, 2).reshape(len(x), 6)

    with pytest.raises((ValueError, AlignmentError), match="classes="):
        GrowthMap.between(Sum(), Sum(), classes=[5, 1, 2, 3, 4, 0])
