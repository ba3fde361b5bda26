"""Fills: what they promise of the function, of new coordinates, and of being alive."""

import logging
import threading

import pytest
import torch
from torch import nn

from phiopt._modules import state_of
from phiopt.growth import GrowthMap, compare, grow, register_fill
from phiopt.growth.registry import FILLS
from tests.growth.nets import mlp, randomised


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
