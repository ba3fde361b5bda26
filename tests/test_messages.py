"""Errors of bad calls: they show values shortly, know arguments in the wrong order, and propose what may be meant."""

from itertools import permutations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import phiopt
from phiopt import criteria, lift
from phiopt._checks import part
from phiopt._meant import EXAMPLES, meant
from phiopt._shown import shown
from phiopt.bilevel import Adjoint
from phiopt.bilevel.search import Search
from phiopt.objective import Curvature, Neighbourhood
from phiopt.solve import Solver
from tests.bad import DATA, LAMBDAS, MAP, SOLUTION, STUDENT, TEACHER, X, Y
from tests.cases import mlp, randn

NOISE, OUTER = phiopt.Uniform(0.1), phiopt.OuterLoss(DATA)
LOADER = DataLoader(TensorDataset(X, Y))
SGD = torch.optim.SGD(TEACHER.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (X, "a tensor of shape (8, 4) and dtype torch.float64"),
        (X.numpy(), "an array of shape (8, 4) and dtype float64"),
        (torch.tensor(0.5), "tensor(0.5000)"),
        (np.float64(0.5), "np.float64(0.5)"),
        ((X, 1), "(a tensor of shape (8, 4) and dtype torch.float64, 1)"),
        ({"x": X}, "{'x': a tensor of shape (8, 4) and dtype torch.float64}"),
        ([], "[]"),
        ((0,), "(0,)"),
        (lambda x: x, "the function <lambda>"),
        (len, "the builtin_function_or_method len"),
        (nn.Linear, "the class Linear"),
        (TEACHER, "a module Sequential"),
        (SGD, "an object of class SGD"),
        (LOADER, "an object of class DataLoader"),
        ("x" * 200, "'" + "x" * 99 + "..."),
    ],
)
def test_a_value_is_shown_on_one_short_line(value, text):
    assert shown(value) == text


def test_long_containers_are_cut():
    for value in (list(range(10**5)), TEACHER.state_dict(), [X] * 50, ({"a": [X] * 9},) * 9):
        assert len(shown(value)) < 400
        assert "more" in shown(value)


def test_an_object_whose_text_fails_is_shown_by_its_class():
    class Odd:
        def __repr__(self):
            raise RuntimeError

    assert shown(Odd()) == "an object of class Odd"


ORDERS = [
    (phiopt.initialize, (TEACHER, STUDENT, LAMBDAS, DATA)),
    (phiopt.initialize, (TEACHER, STUDENT, phiopt.Lambdas(*LAMBDAS), LOADER)),
    (phiopt.pose, (TEACHER, STUDENT, LAMBDAS, DATA)),
    (phiopt.learn, (TEACHER, STUDENT, DATA, OUTER)),
    (phiopt.check, (STUDENT, DATA)),
    (phiopt.carry_optimizer, (SGD, MAP, TEACHER, STUDENT)),
    (criteria.accuracy, (STUDENT, DATA)),
    (criteria.cross_entropy, (STUDENT, LOADER)),
    (criteria.predict, (STUDENT, {"x": X, "labels": Y})),
    (criteria.evaluate, (STUDENT, DATA, NOISE)),
    (criteria.robustness, (STUDENT, DATA, NOISE)),
    (criteria.corruption_curve, (STUDENT, DATA, (0, 30))),
    (criteria.prediction_variance, ([STUDENT, STUDENT], DATA)),
]


@pytest.mark.parametrize(("verb", "arguments"), ORDERS)
def test_arguments_in_another_order_are_refused_with_the_right_one(verb, arguments):
    for order in list(permutations(range(len(arguments))))[1:]:
        swapped = tuple(arguments[i] for i in order)
        with pytest.raises((TypeError, ValueError)) as raised:
            verb(*swapped)
        message = str(raised.value)
        assert "\n" not in message
        assert len(message) < 400
        modules = [x for x in arguments if isinstance(x, nn.Module)]
        if [x for x in swapped if any(x is m for m in modules)] == modules:
            assert f"{verb.__name__}(" in message  # teacher and student may be of any size


@pytest.mark.parametrize(
    "call",
    [
        lambda: phiopt.initialize(TEACHER, STUDENT, LAMBDAS, X, Y),
        lambda: criteria.accuracy(STUDENT, X, Y),
        lambda: phiopt.check(STUDENT, X, Y),
    ],
)
def test_inputs_and_targets_apart_are_refused_as_one_argument(call):
    with pytest.raises(TypeError, match=r"data=\(inputs, targets\)"):
        call()


def test_what_is_given_by_name_is_said_so():
    with pytest.raises(TypeError, match=r"^fill: .*GrowthMap; give it as map=.*grow\(teacher"):
        phiopt.grow(TEACHER, STUDENT, MAP)
    with pytest.raises(TypeError, match=r"between\(teacher, student, ...\): got 3 .* by name"):
        phiopt.GrowthMap.between(TEACHER, STUDENT, lift.Identity())


def test_an_object_of_two_kinds_is_of_either():
    class Noise(nn.Module):
        def draw(self, inputs, generator):
            return ()

        def perturb(self, inputs, draw):
            return inputs[None]

    assert criteria.robustness(STUDENT, DATA, Noise()) == criteria.cross_entropy(STUDENT, DATA)


KINDS = {
    "neighbourhood": Neighbourhood,
    "solver": Solver,
    "adjoint": Adjoint,
    "curvature": Curvature,
    "search": Search,
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_of_an_argument_are_such_arguments(name):
    for text in EXAMPLES[name]:
        example = eval(f"phiopt.{text}")
        part(name, example, KINDS[name])
        kind = type(example).__name__
        for given in (kind, kind.lower(), type(example)):
            assert meant(name, given) == f"; did you mean {text}?"


@pytest.mark.parametrize(
    ("name", "value", "proposal"),
    [
        ("neighbourhood", 0.1, r"did you mean Uniform\(0.1\)\?"),
        ("neighbourhood", np.float32(0.25), r"did you mean Uniform\(0.25\)\?"),
        ("neighbourhood", torch.tensor(0.5), r"did you mean Uniform\(0.5\)\?"),
        ("neighbourhood", "unifrom", r"did you mean Uniform\(0.1\)\?"),
        ("neighbourhood", -1.0, r"such as Uniform\(0.1\) or"),
        ("loss", "ce", "did you mean loss=None, which is cross-entropy"),
        ("loss", "mse", "did you mean lambda outputs, targets: "),
        ("loss", "hinge", "it gives a loss for each example, as lambda"),
        ("loss", nn.CrossEntropyLoss, r"did you mean CrossEntropyLoss\(reduction='none'\)"),
        ("solver", "adamw", r"did you mean TorchOpt\(torchopt.adamw\("),
        ("solver", SGD, r"did you mean TorchOpt\(torchopt.sgd\("),
        ("start", SOLUTION, r"did you mean dict\(solution.student.named_parameters\(\)\)"),
        ("start", STUDENT, r"did you mean dict\(module.named_parameters\(\)\)"),
        ("lift", MAP, "did you mean map="),
        ("map", lift.Identity(), "did you mean lift="),
        ("teacher", "teacher.pt", "load_state_dict"),
        ("student", nn.Linear, r"did you mean Linear\(...\)"),
    ],
)
def test_what_may_be_meant_is_proposed(name, value, proposal):
    arguments = {"teacher": TEACHER, "student": STUDENT, "lambdas": LAMBDAS, "data": DATA}
    with pytest.raises(TypeError, match=f"^{name}: got .*{proposal}") as raised:
        phiopt.initialize(**arguments | {name: value})
    assert "\n" not in str(raised.value)


def test_labels_of_the_students_classes_hint_at_classes():
    teacher, student = mlp(4, 3, 5, seed=1), mlp(4, 5, 10, seed=2)
    with pytest.raises(ValueError, match=r"^data: labels from 0 to 9, .*keep examples of new cl"):
        phiopt.initialize(teacher, student, LAMBDAS, (randn(10, 4), torch.arange(10)))
    rule = r"labels from 5 to 9, must lie in 0 ... 4.*such as classes=\[5, 6, 7, 8, 9\]"
    with pytest.raises(ValueError, match=rule):
        phiopt.initialize(teacher, student, LAMBDAS, (X, torch.arange(8) % 5 + 5))


def test_a_module_with_items_is_no_data():
    with pytest.raises(TypeError, match=r"^data: got Sequential, must"):
        phiopt.OuterLoss(STUDENT)


def test_lifts_in_one_tuple_are_refused():
    with pytest.raises(TypeError, match=r"^lifts: got a tuple .*: Compose\(Pad\(.*\), Identity"):
        lift.Compose((lift.Pad((6, 6)), lift.Identity()))


class Gated(nn.Module):
    def __init__(self, width, act):
        super().__init__()
        self.act, self.up, self.down = act, nn.Linear(3, width), nn.Linear(width, 2)

    def forward(self, x):
        return self.down(self.act(self.up(x)))


class QuickGelu(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        (nn.ReLU(), nn.GELU(), ("relu", "gelu")),
        (nn.Tanh(), nn.SiLU(), ("tanh", "silu")),
        (nn.ReLU(), QuickGelu(), ("relu", "mul")),
    ],
)
def test_another_activation_is_refused_with_what_to_do(old, new, names):
    rule = f"No map keeps the function: no weights make {names[1]} of {names[0]}. Build the student with {names[0]}"
    with pytest.raises(ValueError, match=rule):
        phiopt.grow(Gated(4, old), Gated(6, new))


def test_swapped_models_are_said_where_it_shows():
    with pytest.raises(ValueError, match="the teacher is the first argument"):
        phiopt.grow(STUDENT, TEACHER)
    with pytest.raises(ValueError, match="but of the student's; are the two swapped"):
        phiopt.carry_optimizer(SGD, MAP, STUDENT, TEACHER)
