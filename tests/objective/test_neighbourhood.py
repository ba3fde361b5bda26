from dataclasses import dataclass, replace
from functools import partial
from math import inf

import pytest
import torch
from torch import nn

from phiopt import Replay, TorchOpt, initialize
from phiopt.objective import Corruption, Gaussian, Uniform, delta_of
from phiopt.objective.neighbourhood import at_delta, largest_delta_of
from tests.cases import generator, randn

ALL = [
    Uniform(0.3, samples=3),
    Uniform(0.3, samples=3, norm=2),
    Gaussian(0.3, samples=3),
    Corruption(0.3, samples=3),
]


def drawn(neighbourhood, x, seed=0):
    return neighbourhood.perturb(x, neighbourhood.draw(x, generator(seed)))


ALL += [replace(n, samples=4, sampling=s) for n in ALL for s in ("antithetic", "sobol")]


@pytest.mark.parametrize("neighbourhood", ALL, ids=repr)
@pytest.mark.parametrize("shape", [(4, 5), (4, 2, 3, 3)])
def test_shape_seed_and_unchanged_input(neighbourhood, shape):
    x = randn(*shape)
    before = x.clone()
    first, again, other = (drawn(neighbourhood, x, seed) for seed in (0, 0, 1))
    assert first.shape == (neighbourhood.samples, *shape)
    assert first.dtype == x.dtype
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(x, before)


def test_uniform_fills_the_cube():
    eps = Uniform(1.0, samples=2000).draw(randn(5, 4), generator())[0]
    assert eps.abs().max() <= 1
    n = eps.numel()
    assert abs(eps.mean()) < 4 * (1 / 3 / n) ** 0.5
    assert abs(eps.square().mean() - 1 / 3) < 4 * (4 / 45 / n) ** 0.5


def test_uniform_fills_the_euclidean_ball():
    n = 6
    x = torch.zeros(20, 2, 3, dtype=torch.float64)
    radius = drawn(Uniform(0.5, samples=500, norm=2), x).flatten(2).norm(dim=2)
    assert radius.max() <= 0.5
    # P(‖x'‖ <= r) = (r / δ)^n: the radius' n-th power is uniform.
    share = (radius / 0.5) ** n
    assert abs(share.mean() - 0.5) < 4 * (1 / 12 / radius.numel()) ** 0.5


def test_gaussian_has_its_moments():
    x = torch.zeros(100, 50, dtype=torch.float64)
    noise = drawn(Gaussian(0.7, samples=4), x)
    assert abs(noise.std() / 0.7 - 1) < 4 * (0.5 / noise.numel()) ** 0.5


@pytest.mark.parametrize("shape", [(50, 3, 8, 8), (50, 64)])
def test_corruption_replaces_whole_pixels(shape):
    x = torch.full(shape, 7.0, dtype=torch.float64)
    noisy = drawn(Corruption(0.3, samples=4, low=-1, high=2), x)
    replaced = noisy != 7
    assert noisy[replaced].min() >= -1
    assert noisy[replaced].max() <= 2
    pixels = replaced
    if len(shape) == 4:
        assert torch.equal(replaced.all(2), replaced.any(2))
        pixels = replaced.any(2)
    assert abs(pixels.double().mean() - 0.3) < 4 * (0.21 / pixels.numel()) ** 0.5


@pytest.mark.parametrize("sampling", ["antithetic", "sobol"])
@pytest.mark.parametrize(
    ("neighbourhood", "second"),
    [(Uniform(1.0), 1 / 3), (Gaussian(1.0), 1.0), (Uniform(1.0, norm=2), 1 / 6)],
    ids=["cube", "normal", "ball"],
)
def test_each_related_sample_has_the_distribution_by_itself(neighbourhood, second, sampling):
    """Its mean, and E ε² of a coordinate: in the ball of n dimensions that is 1 / (n + 2)."""
    related = replace(neighbourhood, samples=4, sampling=sampling)
    noise = drawn(related, torch.zeros(5000, 4, dtype=torch.float64))
    for sample in noise:
        spread = sample.std() / sample.numel() ** 0.5
        assert abs(sample.mean()) < 4 * spread
        squares = sample.square()
        assert abs(squares.mean() - second) < 4 * squares.std() / 5000**0.5


@pytest.mark.parametrize("make", [Uniform, Gaussian, partial(Uniform, norm=2)])
def test_antithetic_pairs_lie_opposite(make):
    noise = make(1.0, samples=6, sampling="antithetic").draw(randn(5, 4), generator())[0]
    torch.testing.assert_close(noise[:3], -noise[3:])


def test_antithetic_corruption_takes_turns():
    rank, values = Corruption(0.5, samples=2, sampling="antithetic").draw(randn(5, 4), generator())
    torch.testing.assert_close(rank[0], 1 - rank[1])
    torch.testing.assert_close(values[0], 1 - values[1])


@pytest.mark.parametrize("sampling", ["antithetic", "sobol"])
def test_related_samples_estimate_a_smooth_mean_better(sampling):
    """E exp(⟨a, x'⟩) in four dimensions: the variance of the mean over 8 samples falls."""
    a, x = randn(4, seed=1), torch.zeros(4000, 4, dtype=torch.float64)

    def variance(sampling):
        noisy = drawn(Uniform(0.5, samples=8, sampling=sampling), x)
        return (noisy @ a).exp().mean(0).var()

    assert variance(sampling) < 0.25 * variance("independent")


def test_sobol_does_not_follow_the_default_device():
    x, noise = randn(3, 2), Uniform(0.1, samples=2, sampling="sobol")
    with torch.device("meta"):
        inside = noise.draw(x, generator())
    torch.testing.assert_close(inside, noise.draw(x, generator()))


def test_sobol_has_its_limit_of_dimensions():
    x = torch.zeros(1, 21202)
    with pytest.raises(ValueError, match="sampling: 'sobol' has 21201 dimensions at most"):
        Uniform(0.1, samples=2, sampling="sobol").draw(x, generator())


def test_the_extremes_of_corruption():
    x = torch.full((3, 4), 7.0)
    assert torch.equal(drawn(Corruption(0.0), x)[0], x)
    assert (drawn(Corruption(1.0), x) != 7).all()


@pytest.mark.parametrize("make", [Uniform, Gaussian])
def test_the_draw_is_reparameterised_in_delta(make):
    x = randn(3, 4)
    delta = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    draw = make(0.1).draw(x, generator())
    (slope,) = torch.autograd.grad(make(delta).perturb(x, draw).sum(), delta)
    torch.testing.assert_close(slope, draw[0].sum())


@pytest.mark.parametrize("make", [Uniform, Gaussian])
def test_clipping(make):
    noisy = drawn(make(5.0, clip=(0.0, 1.0)), torch.rand(20, 20, generator=generator()))
    assert noisy.min() == 0
    assert noisy.max() == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Uniform(-0.1), "delta: got -0.1"),
        (lambda: Gaussian(inf), "delta: got inf"),
        (lambda: Gaussian(float("nan")), "delta: got nan"),
        (lambda: Uniform(0.1, samples=0), "samples: got 0"),
        (lambda: Uniform(0.1, norm=1), "norm: got 1"),
        (lambda: Uniform(0.1, samples=3, sampling="antithetic"), "samples: got 3, must be even"),
        (lambda: Gaussian(0.1, samples=6, sampling="sobol"), "samples: got 6, must be a power"),
        (lambda: Corruption(0.1, sampling="halton"), "sampling: got 'halton', must be one of"),
        (lambda: Gaussian(0.1, clip=(1, 0)), r"got \(1, 0\), low must be less"),
        (lambda: Corruption(1.2), "delta: got 1.2"),
        (lambda: Corruption(0.1, low=1.0, high=1.0), "low must be less"),
        (lambda: Corruption(torch.tensor(0.1, requires_grad=True)), "x' jumps in δ"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("clip", [(0,), (0, 1, 2), 0.5, ("a", "b")])
def test_a_clip_that_is_no_pair_of_numbers_is_refused(clip):
    with pytest.raises(TypeError, match=r"^clip: got"):
        Uniform(0.1, clip=clip)


def test_what_a_neighbourhood_declares_of_its_size():
    @dataclass(frozen=True)
    class Sized:
        delta: float = 0.2
        largest_delta: float = 0.5

    delta = torch.tensor(0.3, requires_grad=True)
    assert delta_of(Gaussian(delta)) is delta
    assert delta_of(Sized()) == 0.2
    assert delta_of(object()) is None
    largest = [largest_delta_of(n) for n in (Uniform(0.3), Corruption(0.3), Sized(), object())]
    assert largest == [inf, 1, 0.5, inf]


class Plain:
    """A neighbourhood that is no dataclass."""

    def __init__(self, delta):
        self.delta = delta

    def draw(self, inputs, generator):
        return (torch.randn(1, *inputs.shape, generator=generator, dtype=inputs.dtype),)

    def perturb(self, inputs, draw):
        return inputs + self.delta * draw[0]


class Movable(Plain):
    def with_delta(self, delta):
        return Movable(delta)


class Forgetful(Plain):
    def with_delta(self, delta):
        return Forgetful(float(delta))


def test_another_delta_is_put_where_the_neighbourhood_says():
    delta = torch.tensor(0.3)
    assert at_delta(Gaussian(0.1, samples=3), 0.2) == Gaussian(0.2, samples=3)
    assert at_delta(Movable(0.1), delta).delta is delta
    assert at_delta(Forgetful(0.1), 0.2).delta == 0.2
    with pytest.raises(TypeError, match=r"^neighbourhood: no other δ can be put into Plain"):
        at_delta(Plain(0.1), 0.2)
    with pytest.raises(TypeError, match=r"^neighbourhood: Forgetful .* its delta is 0\.3"):
        at_delta(Forgetful(0.1), delta)


def test_a_neighbourhood_that_is_no_dataclass_is_differentiated_in():
    teacher, student = nn.Linear(3, 2).double(), nn.Linear(3, 4).double()
    data = randn(20, 3, seed=1), torch.randint(2, (20,), generator=generator(2))

    def solved(around, **options):
        weights, solver = (0.4, 0.4, 0.2, 0.0), TorchOpt(steps=3)
        return initialize(
            teacher, student, weights, data, neighbourhood=around, solver=solver, **options
        )

    delta = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    gradients = []
    for kind in (Gaussian, Movable):
        params = solved(kind(delta), adjoint=Replay()).params
        gradients += torch.autograd.grad(params["weight"].square().sum(), delta)
    torch.testing.assert_close(*gradients)
    assert solved(Plain(0.3)).objective == pytest.approx(solved(Gaussian(0.3)).objective)
    with pytest.raises(TypeError, match=r"^neighbourhood: no other δ can be put into Plain"):
        solved(Plain(delta))


def test_what_a_neighbourhood_declares_of_its_precision():
    assert Uniform(0.1, samples=2, sampling="sobol").float32_reason
    assert not any(n.float32_reason for n in (Uniform(0.1), Gaussian(0.1), Corruption(0.1)))
