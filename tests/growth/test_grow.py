"""Fills: what they promise of the function, of new coordinates, and of being alive."""

import logging
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from phiopt import lift as lifts
from phiopt._modules import state_of
from phiopt.growth import GrowthMap, compare, grow, register_fill
from phiopt.growth.registry import FILLS
from tests.growth.nets import KINDS, Attention, Decoder, Tagger, Wired, randomised
from tests.growth.test_map import mlp, well_formed

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


def test_zero_out_leaves_new_units_alive():
    teacher, student = randomised(mlp(4, 8, 3)), mlp(4, 16, 3)
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    for fill, alive in (("zero-out", True), ("zero", False)):
        grown = grow(teacher, student, fill)
        for _ in range(2):  # the incoming weights learn once the outgoing ones have moved
            grads = torch.autograd.grad((grown(x) ** 2).sum(), list(grown.parameters()))
            with torch.no_grad():
                for p, g in zip(grown.parameters(), grads, strict=True):
                    p -= 1e-3 * g
        assert bool(grads[0][8:].abs().sum() > 0) is alive


def test_new_coordinates_of_the_paper_fills():
    teacher, student = randomised(mlp(4, 8, 3)), mlp(4, 16, 5)
    mask = GrowthMap.between(teacher, student).mask()

    def new(grown):
        return torch.cat([p.detach()[~mask[n]] for n, p in grown.named_parameters()])

    assert not new(grow(teacher, student, "zero")).any()
    positive = new(grow(teacher, student, "uniform", theta=0.2))
    assert 0 <= positive.min() < 0.02 < 0.18 < positive.max() <= 0.2
    both = new(grow(teacher, student, "uniform-symmetric", theta=0.2))
    assert -0.2 <= both.min() < -0.18 < 0.18 < both.max() <= 0.2
    constructed = torch.cat([p.detach()[~mask[n]] for n, p in student.named_parameters()])
    assert torch.equal(new(grow(teacher, student, "default")), constructed)


@pytest.mark.parametrize("classes", [None, [4, 1, 2]])
def test_matched_gives_the_rows_of_new_classes_the_scale_of_the_old_ones(classes):
    teacher, student = randomised(mlp(4, 8, 6, 3)), mlp(4, 16, 9, 5)
    plain = state_of(grow(teacher, student, "default", classes=classes))
    matched = state_of(grow(teacher, student, "matched", classes=classes))
    old = [0, 1, 2] if classes is None else classes
    new = [row for row in range(5) if row not in old]
    head = list(plain)[-2]
    scale = plain[head][old].square().mean().sqrt()
    assert torch.allclose(matched[head][new].square().mean().sqrt(), scale)
    assert torch.allclose(
        matched[head][new] / plain[head][new], (matched[head] / plain[head])[new[0], 0]
    )
    assert torch.equal(matched[head][old], plain[head][old])
    assert all(torch.equal(matched[name], plain[name]) for name in plain if name != head)


def test_matched_is_default_where_there_are_no_new_classes():
    teacher, student = randomised(mlp(4, 8, 6, 3)), mlp(4, 16, 9, 3)
    plain, matched = (state_of(grow(teacher, student, fill)) for fill in ("default", "matched"))
    assert all(torch.equal(matched[name], plain[name]) for name in plain)


def test_zero_leaves_new_statistics_of_batch_norm_usable():
    def net(width):
        return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 3))

    grown = grow(randomised(net(4)), net(6), "zero")
    assert grown[1].running_var[4:].tolist() == [1.0, 1.0]
    assert int(grown[1].num_batches_tracked) == 7


def test_the_same_seed_gives_the_same_bits_and_the_global_state_stays():
    teacher, student = randomised(mlp(4, 8, 3)), mlp(4, 16, 5)
    before = torch.get_rng_state()
    for fill in FILLS:
        a, b, c = (grow(teacher, student, fill, seed=s) for s in (1, 1, 2))
        assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
        random = fill in ("uniform", "uniform-symmetric", "net2wider")
        same = all(torch.equal(x, y) for x, y in zip(a.parameters(), c.parameters(), strict=True))
        assert same is not random
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("fill", FILLS)
def test_the_default_device_does_not_matter(fill):
    teacher, student = randomised(mlp(4, 8, 3)), mlp(4, 16, 5)
    here = grow(teacher, student, fill)
    with torch.device("meta"):  # stands for any other device
        there = grow(teacher, student, fill, classes=[0, 1, 2], verify=True)
    assert all(map(torch.equal, here.parameters(), there.parameters()))


def test_nothing_is_modified_and_no_storage_is_shared():
    teacher, student = randomised(mlp(4, 8, 3)), mlp(4, 16, 5)
    old = [v.clone() for m in (teacher, student) for v in state_of(m).values()]
    for fill in FILLS:
        grown = grow(teacher, student, fill)
        with torch.no_grad():
            for p in grown.parameters():
                p.add_(1)
    now = [v for m in (teacher, student) for v in state_of(m).values()]
    assert all(torch.equal(a, b) for a, b in zip(old, now, strict=True))


def test_a_student_grown_in_inference_mode_can_be_trained():
    with torch.inference_mode():
        grown = grow(randomised(mlp(4, 8, 3)), mlp(4, 16, 5), "zero-out", verify=True)
    grown(torch.ones(2, 4)).sum().backward()
    torch.optim.SGD(grown.parameters(), lr=0.1).step()


def test_verify_reports_the_change(caplog):
    with caplog.at_level(logging.INFO, logger="phiopt"):
        grown = grow(randomised(mlp(4, 8, 3)), mlp(4, 16, 5), "zero-out", verify=True)
    assert grown.verification.exact
    assert "max |Δ logits|" in caplog.text


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_roundings_of_half_precision_are_no_change(dtype):
    small, large = (randomised(mlp(16, 24, h, 5)).to(dtype) for h in (24, 40))
    grown = grow(small, large, "net2wider", verify=True)  # without a warning
    assert grown.verification.max_rel > 1e-5
    assert grown.verification.exact


def test_one_number_per_example_is_verified_too():
    teacher, student = (nn.Sequential(mlp(4, h, h, 1), nn.Flatten(0)) for h in (3, 6))
    growth = GrowthMap.between(randomised(teacher), student, inputs=torch.ones(2, 4))
    grown = grow(teacher, student, "net2wider", map=growth, verify=True)
    assert grown.verification.exact
    assert grown.verification.examples == 8


def test_a_half_precision_teacher_grows_into_a_float_student():
    teacher, student = randomised(mlp(4, 3, 3, 2)).half(), mlp(4, 6, 6, 2)
    growth = GrowthMap.between(teacher, student)
    grown = grow(teacher, student, "zero-out", map=growth)
    assert compare(teacher, grown, growth).max_rel < 0.01


def test_models_without_numbers_are_named():
    small = nn.Linear(4, 2)
    with pytest.raises(ValueError, match="student: weight is not initialised yet"):
        grow(small, nn.LazyLinear(3))
    with pytest.raises(ValueError, match="student's weight is on meta"):
        grow(small, nn.Linear(4, 3, device="meta"))


def test_a_fill_can_be_added():
    @register_fill("ones")
    def ones(start):
        return start.map.embed(
            start.teacher, into={k: torch.ones_like(v) for k, v in start.student.items()}
        )

    try:
        grown = grow(randomised(mlp(4, 8, 3)), mlp(4, 16, 5), "ones")
    finally:
        del FILLS["ones"]
    assert grown[0].bias[8:].tolist() == [1.0] * 8


class Masked(nn.Module):
    """Causal attention whose mask is a buffer of -∞."""

    def __init__(self, width):
        super().__init__()
        self.inner = nn.TransformerEncoderLayer(4, 2, width, batch_first=True, norm_first=True)
        self.head = nn.Linear(4, 3)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(5))

    def forward(self, x):
        return self.head(self.inner(x, src_mask=self.mask))


def test_a_student_that_cannot_be_copied_is_named():
    student = mlp(4, 16, 5)
    student.lock = threading.Lock()
    with pytest.raises(TypeError, match=r"Sequential cannot be copied: .*_thread.lock"):
        grow(mlp(4, 8, 3), student)


def test_buffers_may_be_infinite_but_no_nan():
    teacher, student = Masked(6), Masked(9)
    grown = grow(teacher, student, "zero-out", inputs=torch.zeros(2, 5, 4))
    x = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(grown.eval()(x), teacher.eval()(x), rtol=1e-5, atol=1e-6)
    student.mask[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"student's mask holds NaN"):
        grow(teacher, student, inputs=x)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"fill: got 'zeros', must be one of default.*mean 'zero'"):
        grow(mlp(4, 8, 3), mlp(4, 16, 5), "zeros")
    with pytest.raises(ValueError, match=r"theta: got -1.0, must be"):
        grow(mlp(4, 8, 3), mlp(4, 16, 5), "uniform", theta=-1)
    for name, value in {"theta": "a", "seed": 1.5, "map": 3, "inputs": [0.0]}.items():
        with pytest.raises(
            (TypeError, ValueError), match=rf"{name}: got {value!r}, must be".replace("[", r"\[")
        ):
            grow(mlp(4, 8, 3), mlp(4, 16, 5), "uniform", **{name: value})
    broken = mlp(4, 8, 3)
    with torch.no_grad():
        broken[0].bias[0] = float("nan")
    with pytest.raises(ValueError, match=r"teacher's 0.bias has values that are not finite"):
        grow(broken, mlp(4, 16, 5))
