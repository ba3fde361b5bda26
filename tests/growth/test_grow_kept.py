"""Growth keeps the function, of wide, recurrent, deep and randomly wired nets; where it cannot, it says so."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from phiopt import lift as lifts
from phiopt.growth import GrowthMap, compare, grow
from tests.growth.nets import KINDS, Attention, Decoder, Tagger, Wired, mlp, randomised, well_formed

KEPT = ("zero-out", "net2wider", "vv-zz")


def largest_change(teacher, student, fill, **options):
    growth = GrowthMap.between(teacher, student, **options)
    grown = grow(teacher, student, fill, map=growth)
    return compare(teacher, grown, growth).max_rel


def largest_changes(teacher, student, fills, **options):
    """The largest over several fills by one map."""
    growth = GrowthMap.between(teacher, student, **options)
    grown = (grow(teacher, student, fill, map=growth) for fill in fills)
    return max(compare(teacher, module, growth).max_rel for module in grown)


@pytest.mark.parametrize("fill", [*KEPT, "zero"])
def test_feed_forward_nets_keep_their_logits(fill):
    assert largest_change(randomised(mlp(4, 8, 6, 3)), mlp(4, 16, 9, 5), fill) < 1e-5


@pytest.mark.parametrize("kind", [pytest.param(nn.RNN, marks=pytest.mark.slow), nn.GRU, nn.LSTM])
def test_recurrent_nets_keep_their_logits(kind):
    options = {"num_layers": 2, "bidirectional": True}
    teacher, student = (
        randomised(Tagger(kind, 5, 3, 2, **options)),
        Tagger(kind, 5, 7, 3, **options),
    )
    assert largest_changes(teacher, student, [*KEPT, "zero"]) < 1e-5


@pytest.mark.parametrize("fill", [*KEPT, "zero"])
def test_images_with_more_channels_pixels_and_classes_keep_their_logits(fill):
    def net(channels, width, size, classes):
        return nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(width * (size // 2) ** 2, classes),
        )

    lift = lifts.Compose(lifts.Channels(3), lifts.Pad((12, 12)))
    change = largest_change(
        randomised(net(1, 4, 8, 3)),
        net(3, 6, 12, 5),
        fill,
        inputs=torch.zeros(2, 1, 8, 8),
        lift=lift,
        classes=[4, 1, 2],
    )
    assert change < 1e-5


class Between(nn.Module):
    """A function of the hidden units, made for their number."""

    def __init__(self, make, width, classes):
        super().__init__()
        self.into, self.function, self.out = (
            nn.Linear(6, width),
            make(width),
            nn.LazyLinear(classes),
        )
        self(torch.zeros(2, 6))

    def forward(self, x):
        return self.out(self.function(self.into(x)))


@pytest.mark.parametrize("fill", KEPT)
@pytest.mark.parametrize(
    "make",
    [
        nn.PReLU,
        lambda _: nn.PReLU(),
        lambda _: nn.LogSigmoid(),
        lambda _: lambda x: x / (1 + x.var(1, correction=0, keepdim=True)),
    ],
    ids=["a slope each", "one slope", "log-sigmoid", "variance"],
)
def test_functions_of_the_units_that_keep_the_logits(make, fill):
    teacher = randomised(Between(make, 4, 3))
    assert largest_change(teacher, Between(make, 8, 5), fill) < 1e-5


@pytest.mark.parametrize("name", ["cumsum", "cumprod", "logcumsumexp"])
def test_what_adds_up_over_the_units_is_kept_by_zero_out(name):
    def make(_):
        return lambda x: getattr(x, name)(1)

    assert largest_change(randomised(Between(make, 4, 3)), Between(make, 8, 5), "zero-out") < 1e-5


@pytest.mark.parametrize(
    ("function", "width", "remark"),
    [
        (lambda x: x / (1 + x.std(1, keepdim=True)), 8, "std over a widened axis"),
        (lambda x: x.prod(1, keepdim=True), 8, "prod over a widened axis"),
        (lambda x: x.logsumexp(1, keepdim=True), 8, "logsumexp over a widened axis"),
        (lambda x: x.logcumsumexp(1), 8, "logcumsumexp over a widened axis; kept only by zero-out"),
        (lambda x: x / (1 + x.var(1, correction=0, keepdim=True)), 10, "variance over 4 -> 10"),
    ],
    ids=["std", "prod", "logsumexp", "cumulative", "variance of 10"],
)
def test_functions_of_the_units_that_no_growth_keeps_are_remarked(function, width, remark):
    growth = GrowthMap.between(
        Between(lambda _: function, 4, 3), Between(lambda _: function, width, 5)
    )
    assert any(f"the root module: {remark}" in line for line in growth.inexact_reasons)


@settings(max_examples=20, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=4),
    factor=st.sampled_from([2, 3]),
    more=st.integers(0, 3),
    flatten=st.booleans(),
    fill=st.sampled_from(KEPT),
)
def test_random_wirings_keep_their_logits(kinds, factor, more, flatten, fill):
    kinds = well_formed(kinds)
    teacher = randomised(Wired(kinds, 4, 4, 3, flatten=flatten))
    student = Wired(kinds, factor * 4, 2 * (2 + more), 5, flatten=flatten)
    growth = GrowthMap.between(teacher, student, inputs=torch.zeros(2, 1, 8, 8))
    result = compare(teacher, grow(teacher, student, fill, map=growth), growth)
    assert result.exact or growth.inexact_reasons


@pytest.mark.parametrize(("width", "heads"), [(16, 2), (16, 4)], ids=["wider", "more"])
def test_attention_keeps_its_logits(width, heads):
    teacher = randomised(Attention(8, 2, 12, 3))
    student = Attention(width, heads, 20, 4)
    assert largest_changes(teacher, student, KEPT, inputs=torch.zeros(2, 4, 6)) < 1e-5


@pytest.mark.parametrize("fill", KEPT)
@pytest.mark.parametrize("heads", [2, 3], ids=["wider", "more"])
def test_layer_norm_over_no_multiple_keeps_the_function_up_to_eps(heads, fill):
    teacher = randomised(Attention(8, 2, 12, 3))
    change = largest_change(teacher, Attention(12, heads, 20, 4), fill, inputs=torch.zeros(2, 4, 6))
    assert 1e-6 < change < 1e-4  # eps = 1e-5 against variances near 1


def test_a_tied_decoder_keeps_its_logits():
    teacher = randomised(Decoder(8, 4, 2, 12))
    assert largest_changes(teacher, Decoder(16, 8, 4, 20), KEPT) < 1e-5
    assert largest_changes(teacher, Decoder(12, 4, 2, 20), KEPT) < 1e-5  # up to eps = 1e-6


def test_layer_norm_across_a_width_that_is_no_multiple_is_remarked():
    growth = GrowthMap.between(
        Attention(8, 2, 12, 3), Attention(12, 3, 12, 3), inputs=torch.zeros(2, 4, 6)
    )
    assert any("LayerNorm over 8 -> 12" in remark for remark in growth.inexact_reasons)
    assert "not exact: norm1" in str(growth)


def test_groups_that_widen_by_no_multiple_warn_and_say_where():
    def net(width):
        return nn.Sequential(nn.Conv2d(1, width, 1), nn.GroupNorm(2, width), nn.Conv2d(width, 2, 1))

    with pytest.warns(UserWarning, match=r"did not keep the function.*GroupNorm over 2 -> 3"):
        grow(randomised(net(4)), net(6), "zero-out", verify=True)


@pytest.mark.parametrize("fill", KEPT)
def test_deeper_residual_and_plain_nets_keep_their_logits(fill):
    class Residual(nn.Module):
        def __init__(self, width, depth):
            super().__init__()
            self.stem = nn.Linear(4, width)
            self.blocks = nn.Sequential(
                *[
                    nn.Sequential(nn.Linear(width, 5), nn.ReLU(), nn.Linear(5, width))
                    for _ in range(depth)
                ]
            )
            self.head = nn.Linear(width, 3)

        def forward(self, x):
            x = self.stem(x)
            for block in self.blocks:
                x = x + block(x)
            return self.head(x)

    assert largest_change(randomised(Residual(6, 1)), Residual(9, 3), fill) < 1e-5
    assert largest_change(randomised(mlp(4, 8, 3)), mlp(4, 12, 12, 5), fill) < 1e-5
