"""The four terms on batches of several inputs, against a model of the one input that varies."""

import pytest
import torch
from torch import nn

import phiopt
from phiopt import Corruption, Gaussian, TorchOpt, criteria
from tests.cases import randn

IMAGES, LABELS = randn(12, 1, 4, 4, seed=2).abs().clamp(max=1), torch.arange(12) % 3
GATE = randn(1, 5, seed=3)


class Gated(nn.Module):
    """Logits of images, under gates that are the same for all examples."""

    def __init__(self, width):
        super().__init__()
        self.image, self.gate = nn.Linear(16, width), nn.Linear(5, width)
        self.head = nn.Linear(width, 3)

    def forward(self, pixel_values, gate):
        hidden = self.image(pixel_values.flatten(1)) * self.gate(gate).tanh()
        return {"logits": self.head(hidden.tanh())}


class Alone(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(images, GATE.expand(len(images), -1))["logits"]


def made(width):
    with torch.random.fork_rng():
        torch.manual_seed(width)
        return Gated(width).double()


GATES = GATE.expand(12, -1).contiguous()
BATCHES = {
    "by name": {"pixel_values": IMAGES, "gate": GATES, "labels": LABELS},
    "by position": ((IMAGES, GATES), LABELS),
    "arrays": ({"pixel_values": IMAGES.numpy(), "gate": GATES.numpy()}, LABELS.numpy()),
}


@pytest.mark.parametrize(
    "name", ["by name", *(pytest.param(n, marks=pytest.mark.slow) for n in list(BATCHES)[1:])]
)
def test_a_solve_with_all_terms_is_that_of_one_input(name):
    teacher, student, data = made(4), made(6), BATCHES[name]
    growth = phiopt.GrowthMap.between(teacher, student, inputs=(IMAGES, GATES))
    options = {
        "neighbourhood": Gaussian(0.1, samples=2),
        "micro_batch": 5 if name == "by name" else None,
        "solver": TorchOpt(steps=3, batch_size=8, check_every=3),
        "throw": False,
    }
    several = phiopt.initialize(teacher, student, (0.3, 0.2, 0.3, 0.2), data, map=growth, **options)
    one = phiopt.initialize(
        Alone(teacher), Alone(student), (0.3, 0.2, 0.3, 0.2), (IMAGES, LABELS), **options
    )
    assert several.objective == pytest.approx(one.objective, rel=1e-12)
    for term, value in several.terms.items():
        assert value == pytest.approx(one.terms[term], rel=1e-10), term
    for key, value in several.params.items():
        assert torch.allclose(value, one.params[f"model.{key}"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", BATCHES)
def test_measures_are_those_of_one_input(name):
    model, around = made(4), Corruption(0.3, samples=2)
    for measure in (criteria.evaluate, criteria.accuracy):
        assert measure(model, BATCHES[name]) == measure(Alone(model), (IMAGES, LABELS))
    ours = criteria.robustness(model, BATCHES[name], around, batch_size=5)
    alone = criteria.robustness(Alone(model), (IMAGES, LABELS), around, batch_size=5)
    assert ours == pytest.approx(alone, rel=1e-12)


@pytest.mark.parametrize("name", ["by name", pytest.param("by position", marks=pytest.mark.slow)])
def test_many_points_and_problems_are_solved_at_once(name):
    solver = TorchOpt(steps=2, batch_size=6, check_every=2)
    points = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.7, 0.1, 0.1, 0.1]]).double()
    problems = [
        phiopt.pose(made(4), made(6), points[0], BATCHES[name], seed=seed) for seed in range(2)
    ]
    outcomes = phiopt.solve.solve_many(solver, problems, points)
    for problem, found in zip(problems, outcomes, strict=True):
        for point, outcome in zip(points, found, strict=True):
            alone = problem.solve(point, solver=solver, throw=False)
            assert outcome.objective == pytest.approx(alone.objective, rel=1e-8)


def test_a_lift_acts_on_the_main_input():
    class Wide(Gated):
        def __init__(self, width):
            super().__init__(width)
            self.image = nn.Linear(18, width)

    teacher = made(4)
    with torch.random.fork_rng():
        torch.manual_seed(6)
        student = Wide(6).double()
    flat = IMAGES.flatten(1)

    def lift(x):
        return torch.nn.functional.pad(x, (0, 2))

    data = {"gate": GATES, "pixel_values": flat, "labels": LABELS}
    grown = phiopt.grow(teacher, student, "zero-out", inputs=data, lift=lift)
    want = teacher(flat, GATES)["logits"]
    assert torch.allclose(grown(lift(flat), GATES)["logits"], want, rtol=0, atol=1e-12)
    solution = phiopt.initialize(
        teacher,
        student,
        (0.5, 0.3, 0.2, 0.0),
        data,
        lift=lift,
        start="zero-out",
        solver=TorchOpt(steps=2, batch_size=12, check_every=2),
        throw=False,
    )
    loss = torch.nn.functional.cross_entropy(want, LABELS).item()
    assert solution.start_terms["task"] == pytest.approx(loss, rel=1e-10)


def test_an_entry_that_forward_does_not_take_is_named():
    data = {"pixel_values": IMAGES, "gate": GATES, "extra": GATES, "labels": LABELS}
    with pytest.raises(
        TypeError, match=r"inputs: got .*extra.* takes pixel_values, gate .*'extra'"
    ):
        phiopt.initialize(made(4), made(6), (0.5, 0.5, 0.0, 0.0), data)
    with pytest.raises(TypeError, match="unexpected keyword argument 'extra'"):
        criteria.accuracy(made(4), data)


def test_the_map_of_several_inputs_is_saved_and_read(tmp_path):
    teacher, student = made(4), made(6)
    batch = BATCHES["by name"]
    growth = phiopt.GrowthMap.between(teacher, student, inputs=batch)
    example = growth.example(3)
    assert example.named["pixel_values"].shape == (8, 1, 4, 4)
    assert torch.equal(example.named["gate"], GATES[:8])
    growth.save(tmp_path / "map.safetensors")
    read = phiopt.GrowthMap.load(tmp_path / "map.safetensors", teacher, student)
    with pytest.raises(ValueError, match="not traced here; pass inputs="):
        read.example()
    grown = phiopt.grow(teacher, student, "zero", map=read, inputs=batch, verify=True)
    assert grown.verification.exact
