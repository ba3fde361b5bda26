import copy
import threading
import time
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
import torchopt
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from phiopt.initialize import initialize
from phiopt.objective import Corruption, Gaussian, Lambdas, Spectral, Uniform
from phiopt.solve import LBFGS, NewtonCG, Solution, SolveError, Status, TorchOpt
from tests.cases import generator, mlp, parameters, randn

QUARTERS = (0.25, 0.25, 0.25, 0.25)
QUICK = TorchOpt(torchopt.adam(5e-3), steps=10, batch_size=16, check_every=5)
CROSS_ENTROPY = partial(nn.functional.cross_entropy, reduction="none")
X, Y = randn(40, 4, seed=3), torch.randint(2, (40,), generator=generator(4))


def teacher():
    return mlp(4, 3, 2, seed=1)


def student():
    return mlp(4, 5, 3, seed=2)


def solved(lambdas=QUARTERS, data=(X, Y), **options):
    return initialize(teacher(), student(), lambdas, data, **{"solver": QUICK} | options)


def storages(*modules):
    tensors = [t for m in modules for t in (*m.parameters(), *m.buffers())]
    return {t.untyped_storage().data_ptr() for t in tensors}


class TestTheSolution:
    def test_is_a_new_student_with_a_report(self):
        found = solved()
        assert isinstance(found, Solution)
        assert found.status is Status.BUDGET_SPENT
        assert list(found.terms) == ["task", "proximity", "noise", "curvature"]
        assert found.objective < found.start_objective
        assert found.scale == "relative"
        weights = dict(Lambdas.of(QUARTERS).items())
        value = sum(w * found.terms[n] / found.divisors.get(n, 1.0) for n, w in weights.items())
        assert found.objective == pytest.approx(value)
        assert found.start_terms["proximity"] == 0  # the default start holds a copy of u
        for name, p in found.student.named_parameters():
            assert torch.equal(p, found.params[name])
            assert p.requires_grad
            assert p.is_leaf
        assert "BUDGET_SPENT" in str(found)

    def test_can_be_trained_and_copied(self):
        found = solved()
        optimizer = torch.optim.SGD(found.student.parameters(), lr=0.1)
        nn.functional.cross_entropy(found.student(X), Y).backward()
        optimizer.step()
        copy.deepcopy(found.student)
        moved = dict(found.student.named_parameters())["0.weight"]
        assert not torch.equal(moved, found.params["0.weight"])

    def test_is_the_same_in_inference_mode(self):
        outside, small, large = solved(), teacher(), student()
        with torch.inference_mode():
            data = X.clone(), Y.clone()
            inside = initialize(small, large, QUARTERS, data, solver=QUICK)
        for name, value in outside.params.items():
            assert torch.equal(value, inside.params[name])
        nn.functional.cross_entropy(inside.student(X), Y).backward()

    def test_does_not_follow_the_default_device(self):
        outside, small, large = solved(classes=[2, 0]), teacher(), student()
        with torch.device("meta"):
            inside = initialize(small, large, QUARTERS, (X, Y), classes=[2, 0], solver=QUICK)
        for name, value in outside.params.items():
            assert torch.equal(value, inside.params[name])

    def test_repeats_bit_by_bit_and_depends_on_the_seed(self):
        first, again, other = solved(seed=7), solved(seed=7), solved(seed=8)
        for name, value in first.params.items():
            assert torch.equal(value, again.params[name])
        assert first.certificate == again.certificate
        assert not torch.equal(first.params["0.weight"], other.params["0.weight"])

    def test_shares_nothing_and_leaves_everything_as_it_was(self):
        small, large = teacher(), student()
        large.train()
        x, y = X.clone(), Y.clone()
        before = [p.clone() for m in (small, large) for p in m.parameters()]
        state = torch.get_rng_state()
        found = initialize(small, large, QUARTERS, (x, y), solver=QUICK)
        after = [p for m in (small, large) for p in m.parameters()]
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert all(p.grad is None for p in after)
        assert torch.equal(x, X)
        assert torch.equal(y, Y)
        assert torch.equal(torch.get_rng_state(), state)
        assert not storages(found.student) & storages(small, large)
        held = {p.untyped_storage().data_ptr() for p in found.params.values()}
        assert not held & storages(found.student, small, large)
        assert found.student.training
        assert all(large.training for large in large.modules())

    def test_is_the_closed_form_for_the_proximity_alone(self):
        """λ = (0, 1, 0, 0) from w0: u at its places, w0 elsewhere, without any data."""
        w0 = {name: p + 0.1 for name, p in parameters(student()).items()}
        solver = TorchOpt(torchopt.sgd(0.4), steps=500, fresh=False, tol=1e-10)
        found = solved((0, 1, 0, 0), None, start=w0, solver=solver, scale="paper")
        assert found.status is Status.SOLVED
        assert list(found.terms) == ["proximity"]
        u = parameters(teacher())
        torch.testing.assert_close(found.params["0.weight"][:3], u["0.weight"])
        assert torch.equal(found.params["0.weight"][3:], w0["0.weight"][3:])

    def test_nothing_to_do_is_solved(self):
        found = initialize(teacher(), student(), (0, 1, 0, 0))
        assert found.status is Status.SOLVED
        assert found.stats.steps == 1
        assert found.certificate.gradient_norm == 0


class TestArguments:
    def test_all_forms_of_lambdas_and_data_agree(self):
        expected = solved().params["0.weight"]
        for lambdas in (Lambdas(*QUARTERS), torch.tensor(QUARTERS, dtype=torch.float64)):
            torch.testing.assert_close(solved(lambdas).params["0.weight"], expected)
        assert torch.equal(solved(data=TensorDataset(X, Y)).params["0.weight"], expected)

    def test_a_loader_goes_round(self):
        own = torch.Generator().manual_seed(1)
        state = own.get_state()
        loader = DataLoader(TensorDataset(X, Y), batch_size=16, shuffle=True, generator=own)
        first, again = solved(data=loader), solved(data=loader)
        assert torch.equal(first.params["0.weight"], again.params["0.weight"])
        assert torch.equal(own.get_state(), state)

    def test_the_paper_scale_is_the_raw_weighted_sum(self):
        found = solved(scale="paper")
        assert found.divisors == {}
        assert found.objective == pytest.approx(sum(found.terms.values()) / 4)

    def test_the_relative_scale_starts_at_order_one(self):
        found = solved()
        assert found.divisors["proximity"] == pytest.approx(
            sum(float(u.square().sum()) for u in parameters(teacher()).values())
        )
        ratio = found.start_terms["curvature"] / found.divisors["curvature"]
        assert 0.3 < ratio < 3

    @pytest.mark.parametrize(
        "options",
        [
            {"neighbourhood": Gaussian(0.2, samples=2, clip=(-1, 1))},
            {"neighbourhood": Uniform(0.2, norm=2)},
            {"neighbourhood": Corruption(0.3)},
            {"curvature": Spectral(iterations=3)},
            {"start": "zero"},
            {"classes": [2, 0]},
            {"restrict_classes": True},
            {"restrict_classes": True, "classes": [2, 0]},
        ],
        ids=str,
    )
    def test_options_change_the_solution_and_lower_the_objective(self, options):
        found = solved(**options)
        assert found.objective < found.start_objective
        plain = solved()
        assert not torch.equal(found.params["0.weight"], plain.params["0.weight"])

    def test_micro_batches_bound_the_memory_and_change_nothing_else(self):
        torch.testing.assert_close(solved(micro_batch=5).params, solved().params)
        with pytest.raises(ValueError, match="micro_batch: got 0"):
            solved(micro_batch=0)

    def test_a_loss_may_work_in_place(self):
        def in_place(outputs, targets):
            targets.mul_(1)
            return CROSS_ENTROPY(outputs.mul_(2), targets.clamp_(max=1))

        def plain(outputs, targets):
            return CROSS_ENTROPY(2 * outputs, targets)

        solver = replace(QUICK, batch_size=38)  # of which a step chooses examples
        found, wanted = (solved(loss=loss, solver=solver) for loss in (in_place, plain))
        torch.testing.assert_close(found.params, wanted.params)

    def test_numbers_may_be_numpys(self):
        solver = TorchOpt(
            QUICK.optimizer, steps=np.int64(10), batch_size=np.int32(16), check_every=5
        )
        found = solved(solver=solver, seed=np.int64(3), restarts=np.int8(1))
        torch.testing.assert_close(found.params, solved(seed=3, restarts=1).params)

    @pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
    def test_a_tensor_of_lambdas_may_need_no_data(self, dtype):
        found = solved(torch.tensor([0, 1, 0, 0]).to(dtype), None)
        assert list(found.terms) == ["proximity"]
        with pytest.raises(ValueError, match="data: None, but the weight of task"):
            solved(torch.tensor([0.0, 1, 0, 0], requires_grad=True), None)

    def test_unseen_classes_leave_the_softmax_when_restricted(self):
        found = solved((0.5, 0.5, 0, 0), restrict_classes=True)
        last = "2.bias"  # of the class that the teacher does not know
        assert found.params[last][2] == parameters(student())[last][2]
        free = solved((0.5, 0.5, 0, 0))
        assert free.params[last][2] < parameters(student())[last][2]

    def test_a_given_loss_on_real_targets(self):
        def squared(outputs, targets):
            return ((outputs - targets) ** 2).mean(1)

        found = solved(data=(X, randn(40, 2)), loss=squared, restrict_classes=True)
        assert found.objective < found.start_objective

    def test_a_plain_callable_lifts(self):
        wide = mlp(6, 5, 3, seed=2)

        def pad(x):
            return nn.functional.pad(x, (0, 2))

        found = initialize(teacher(), wide, QUARTERS, (X, Y), lift=pad, solver=QUICK)
        assert found.objective < found.start_objective
        assert found.params["0.weight"].shape == (5, 6)

    def test_frozen_parameters_stay(self):
        large = student()
        large[0].weight.requires_grad_(False)
        found = initialize(teacher(), large, QUARTERS, (X, Y), solver=QUICK)
        assert "0.weight" not in found.params
        held = dict(found.student.named_parameters())["0.weight"]
        assert torch.equal(held[:3], parameters(teacher())["0.weight"])
        assert not held.requires_grad
        assert not torch.equal(found.params["2.weight"][:2, :3], parameters(teacher())["2.weight"])

    def test_integer_inputs_have_no_neighbours_but_every_other_term(self):
        def tagger(width, classes):
            torch.manual_seed(width)
            return nn.Sequential(
                nn.Embedding(7, width), nn.Flatten(), nn.Linear(3 * width, classes)
            ).double()

        with torch.random.fork_rng():
            small, large = tagger(2, 2), tagger(4, 3)
        tokens = torch.randint(7, (40, 3), generator=generator())
        found = initialize(small, large, (0.4, 0.3, 0, 0.3), (tokens, Y), solver=QUICK)
        assert list(found.terms) == ["task", "proximity", "curvature"]
        with pytest.raises(TypeError, match="neighbours x' need floating inputs"):
            initialize(small, large, QUARTERS, (tokens, Y))

    def test_normalisation_by_stored_statistics(self):
        def net(width):
            torch.manual_seed(width)
            return nn.Sequential(
                nn.Linear(4, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Linear(width, 2)
            ).double()

        with torch.random.fork_rng():
            small, large = net(3), net(5)
        small(X)  # statistics of its own
        found = initialize(small, large, QUARTERS, (X, Y), solver=QUICK)
        held = dict(found.student.named_buffers())
        assert torch.equal(held["1.running_mean"][:3], small[1].running_mean)
        assert not storages(found.student) & storages(small, large)
        assert large[1].num_batches_tracked == 0

    def test_float32_data_for_a_float64_model(self):
        assert solved(data=(X.float(), Y)).params["0.weight"].dtype == torch.float64


class TestDeterministicSolvers:
    @pytest.mark.parametrize("solver", [LBFGS(tol=1e-3), NewtonCG(tol=1e-3, draws=2)], ids=str)
    def test_are_solvers_like_any_other(self, solver):
        found = solved((0.4, 0.4, 0.2, 0), solver=solver, restrict_classes=True)
        ends = found.certificate.spectrum
        assert found.status in (Status.SOLVED, Status.SAMPLE_TOO_SMALL)
        assert ends.least > -1e-6 * ends.largest
        assert found.objective < found.start_objective
        assert found.certificate.objective < found.certificate.start_objective

    def test_an_over_fitted_sample_is_told_and_both_values_reported(self):
        found = solved(
            (0.05, 0.9, 0.05, 0),
            restrict_classes=True,
            solver=LBFGS(draws=1, batch_size=4, tol=1e-3),
            throw=False,
        )
        assert found.status is Status.SAMPLE_TOO_SMALL
        fitted = found.start_objective - found.objective
        fresh = found.certificate.start_objective - found.certificate.objective
        assert fresh < fitted / 2

    def test_a_stationary_point_with_negative_curvature_is_a_saddle(self):
        """L_1 = w1 w2 and its gradient vanish at 0, from where it falls both ways."""

        class Product(nn.Module):
            def __init__(self):
                super().__init__()
                self.w = nn.Parameter(torch.zeros(1, 2, dtype=torch.float64))

            def forward(self, x):
                return x[:, :2] + self.w.prod()

        found = initialize(
            Product(),
            Product(),
            (0.9, 0.1, 0, 0),
            (X, X[:, :2] * 0 - 1),
            loss=lambda outputs, targets: outputs.sum(1),
            throw=False,
        )
        assert found.certificate.spectrum.least < 0
        assert found.status is Status.SADDLE


class TestFailure:
    def test_is_raised_with_the_solution_or_returned(self):
        hopeless = TorchOpt(torchopt.sgd(1e3), steps=3)
        with pytest.raises(SolveError, match=r"^DIVERGED") as caught:
            solved(solver=hopeless)
        assert caught.value.solution.objective == caught.value.solution.start_objective
        returned = solved(solver=hopeless, throw=False)
        assert returned.status is Status.DIVERGED
        assert torch.equal(returned.params["0.weight"], caught.value.solution.params["0.weight"])

    def test_a_start_that_is_not_finite(self):
        def loss(outputs, targets):
            return outputs.sum(1) / 0

        with pytest.raises(SolveError, match="NON_FINITE"):
            solved(loss=loss)

    def test_an_interrupt_leaves_everything_as_it_was(self):
        calls = []

        def loss(outputs, targets):
            calls.append(1)
            if len(calls) == 40:
                raise KeyboardInterrupt
            return outputs.square().sum(1)

        small, large = teacher(), student()
        state = torch.get_rng_state()
        with pytest.raises(KeyboardInterrupt):
            initialize(small, large, QUARTERS, (X, Y), loss=loss)
        assert torch.equal(torch.get_rng_state(), state)
        for module, fresh in ((small, teacher()), (large, student())):
            assert all(map(torch.equal, module.parameters(), fresh.parameters()))


def test_threads_take_turns():
    """They share the global generator, and parameters that are swapped while a module runs."""
    small, large, turns, found = teacher(), student(), [], {}

    def loss(outputs, targets):
        turns.append(threading.get_ident())
        time.sleep(1e-4)
        return CROSS_ENTROPY(outputs, targets)

    def solve(seed):
        found[seed] = initialize(small, large, QUARTERS, (X, Y), loss=loss, solver=QUICK, seed=seed)

    threads = [threading.Thread(target=solve, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(a != b for a, b in pairwise(turns)) == 1
    for seed, solution in found.items():
        alone = solved(seed=seed)
        assert all(map(torch.equal, solution.params.values(), alone.params.values()))


def test_one_number_per_example_needs_no_classes():
    solution = initialize(
        **BARE, lambdas=QUARTERS, loss=lambda o, y: (o - y) ** 2, solver=QUICK, throw=False
    )
    assert solution.objective < solution.start_objective


def test_parameters_without_entries_stay():
    nothing = [nn.Identity(), nn.Identity()]
    for module in nothing:
        module.register_parameter("empty", nn.Parameter(torch.zeros(0, 3, dtype=torch.float64)))
    solution = initialize(
        nn.Sequential(nothing[0], *teacher()),
        nn.Sequential(nothing[1], *student()),
        QUARTERS,
        (X, Y),
        solver=QUICK,
    )
    assert solution.student[0].empty.shape == (0, 3)


def broken(module):
    with torch.no_grad():
        next(module.parameters())[0] = torch.nan
    return module


class Constant(nn.Sequential):
    @torch.no_grad()
    def forward(self, x):
        return super().forward(x)


@torch.inference_mode()
def inferring():
    return teacher()


def frozen(module):
    return module.requires_grad_(False)


class Bare(nn.Module):
    """One number per example, and no axis of classes."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x).logsumexp(1)


class Packed(nn.Module):
    """An LSTM that packs its sequences, which no transform of PyTorch's goes through."""

    def __init__(self, width, classes):
        super().__init__()
        self.lstm = nn.LSTM(4, width, batch_first=True, dtype=torch.float64)
        self.head = nn.Linear(width, classes, dtype=torch.float64)

    def forward(self, x):
        lengths = torch.full((len(x),), x.shape[1], device="cpu")
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        return self.head(self.lstm(packed)[1][0][-1])


SEQUENCES = randn(40, 3, 4, seed=5)


def counting(module):
    """With a buffer that is not materialised."""
    module.register_buffer("count", torch.zeros(1, device="meta"))
    return module


BFLOAT16 = {"teacher": teacher().bfloat16(), "student": student().bfloat16()}
BARE = {"teacher": Bare(teacher()), "student": Bare(student()), "data": (X, X[:, 0])}


BAD = {
    "off the simplex": ({"lambdas": (0.5, 0.5, 0.5, 0.5)}, ValueError, "lambdas: got"),
    "no proximity": ({"lambdas": (1, 0, 0, 0)}, ValueError, "lambdas.proximity: got 0"),
    "no data": ({"data": None}, ValueError, "data: None, but the weight of task, noise, curv"),
    "data": ({"data": (X / 0, Y)}, ValueError, "inputs hold NaN"),
    "empty": ({"data": DataLoader(TensorDataset(X[:0], Y[:0]))}, ValueError, "loader is empty"),
    "labels": ({"data": (X, Y + 1)}, ValueError, "labels from 1 to 2"),
    "targets": ({"data": (X, X)}, TypeError, "must be integer class indices"),
    "teacher": ({"teacher": None}, TypeError, "teacher: got NoneType, must be an nn.Module"),
    "inference": ({"teacher": inferring()}, ValueError, "teacher: 0.weight was made under torch.i"),
    "broken teacher": ({"teacher": broken(teacher())}, ValueError, "teacher: 0.weight holds NaN"),
    "broken student": ({"student": broken(student())}, ValueError, "student: 0.weight holds NaN"),
    "dtypes": ({"teacher": teacher().float()}, ValueError, "teacher: 0.weight is torch.float32"),
    "devices": ({"student": student().to("meta")}, ValueError, "on meta"),
    "frozen": ({"student": frozen(student())}, ValueError, "none of its parameters requires grad"),
    "a buffer": ({"student": counting(student())}, ValueError, "student: count is on meta, must"),
    "lazy buffer": (
        {"teacher": nn.Sequential(nn.LazyBatchNorm1d(affine=False), *teacher())},
        ValueError,
        "teacher: 0.running_mean is not initialised yet",
    ),
    "float16": (
        {"teacher": teacher().half(), "student": student().half()},
        ValueError,
        "teacher: 0.weight is torch.float16, must be float32, float64 or bfloat16",
    ),
    "wrapped": ({"student": nn.DataParallel(student())}, TypeError, "pass student.module"),
    "columns": ({"data": (X, Y[:, None])}, ValueError, r"2 targets .*\(2, 1\), must have \(2,\)"),
    "packed": (
        {
            "teacher": Packed(3, 2),
            "student": Packed(4, 3),
            "data": (SEQUENCES, Y),
            "lambdas": (0.5, 0.5, 0, 0),
        },
        TypeError,
        "student: torch.func cannot differentiate its forward pass.*: Cannot access",
    ),
    "packed, with curvature": (
        {"teacher": Packed(3, 2), "student": Packed(4, 3), "data": (SEQUENCES, Y)},
        TypeError,
        "student: lstm has no third derivative",
    ),
    "whole inputs": (
        {"data": (X.long(), Y), "lambdas": (0.5, 0.5, 0, 0)},
        ValueError,
        r"student: its forward pass fails on .* torch.int64 of shape \(2, 4\)",
    ),
    "no classes": (BARE | {"data": (X, Y)}, ValueError, "outputs have one axis or none"),
    "no classes to restrict": (
        BARE | {"loss": lambda o, y: (o - y) ** 2, "restrict_classes": True},
        ValueError,
        "outputs have one axis or none",
    ),
    "complex targets": (
        {"data": (X, Y.to(torch.complex64))},
        TypeError,
        "targets are torch.complex",
    ),
    "too large": (
        {"teacher": teacher().float(), "student": student().float(), "data": (1e300 * X, Y)},
        ValueError,
        r"data: inputs up to 3\.12e\+300 do not fit into torch.float32",
    ),
    "spectral in bfloat16": (
        BFLOAT16 | {"curvature": Spectral()},
        TypeError,
        "curvature: Spectral's Lanczos method needs float32",
    ),
    "sobol in bfloat16": (
        BFLOAT16 | {"neighbourhood": Gaussian(0.1, samples=2, sampling="sobol")},
        TypeError,
        "neighbourhood: Sobol points need float32",
    ),
    "a dictionary": ({"lambdas": {"task": 0.5, "proximity": 0.5}}, TypeError, r"Lambdas\(\*\*it\)"),
    "a number for losses": (
        {"loss": lambda o, y: 1.0},
        TypeError,
        "loss: returned float, must give",
    ),
    "no losses": ({"loss": lambda o, y: None}, TypeError, "loss: returned NoneType, must give"),
    "whole losses": ({"loss": lambda o, y: y}, TypeError, "loss: returned torch.int64, must give"),
    "huge seed": ({"seed": 2**70}, ValueError, r"seed: got \d+, must be below 2\*\*64"),
    "process_group": ({"process_group": 5}, TypeError, "process_group: got 5, must be a group"),
    "lazy": ({"student": nn.LazyLinear(3)}, ValueError, "student: weight is not initialised yet"),
    "scale": ({"scale": "raw"}, ValueError, "scale: got 'raw'"),
    "seed": ({"seed": -1}, ValueError, "seed: got -1"),
    "seed kind": ({"seed": "a"}, TypeError, "seed: got 'a'"),
    "restarts": ({"restarts": -1}, ValueError, "restarts: got -1"),
    "restarts kind": ({"restarts": 1.5}, TypeError, "restarts: got 1.5"),
    "solver": ({"solver": torchopt.adam(1e-3)}, TypeError, "solver: got"),
    "neighbourhood": ({"neighbourhood": 0.1}, TypeError, "neighbourhood: got 0.1"),
    "curvature": ({"curvature": "frobenius"}, TypeError, "curvature: got 'frobenius'"),
    "loss": ({"loss": "l1"}, TypeError, "loss: got 'l1'"),
    "a class": ({"solver": TorchOpt}, TypeError, "solver: got the class TorchOpt, must be an inst"),
    "flat loss": ({"loss": lambda o, _: o.argmax(1).double()}, ValueError, "loss: has no derivat"),
    "no gradient": ({"student": Constant(student())}, ValueError, "loss: has no derivative"),
    "relabelled": (
        {"data": (X, Y - 1), "classes": [2, 0], "loss": CROSS_ENTROPY},
        ValueError,
        "labels from -1 to 0, must lie in 0 ... 1",
    ),
    "start": ({"start": 3}, TypeError, "start: got int"),
    "start lacks": ({"start": {}}, ValueError, "start: lacks 0.weight, 0.bias, 2.weight, 2.bias"),
}


@pytest.mark.parametrize(("changes", "error", "message"), BAD.values(), ids=BAD)
def test_bad_arguments_are_named_before_any_work(changes, error, message):
    arguments = {"teacher": teacher(), "student": student(), "lambdas": QUARTERS, "data": (X, Y)}
    with pytest.raises(error, match=message):
        initialize(**arguments | changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"0.weight": torch.zeros(2, 2, dtype=torch.float64)}, r"0.weight is \(2, 2\)"),
        ({"0.bias": torch.zeros(5)}, "0.bias is .*torch.float32"),
        ({"0.bias": torch.full((5,), torch.nan, dtype=torch.float64)}, "0.bias holds NaN"),
        ({"new": torch.zeros(1)}, "new is no parameter"),
    ],
)
def test_bad_starts_are_named(change, message):
    with pytest.raises(ValueError, match=f"start: {message}"):
        solved(start=parameters(student()) | change)


def test_a_solution_can_be_changed_only_by_replacing():
    found = solved()
    with pytest.raises(AttributeError):
        found.status = Status.SOLVED
    assert replace(found, scale="paper").scale == "paper"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_tensor_of_lambdas_in_another_dtype_than_the_model(dtype):
    point = torch.tensor(QUARTERS, dtype=dtype, requires_grad=True)
    found = initialize(teacher().float(), student().float(), point, (X, Y), solver=QUICK)
    assert found.params["0.weight"].dtype == torch.float32
    assert not found.params["0.weight"].requires_grad
    rows = [line.split()[:2] for line in str(found).splitlines()]
    assert ["curvature", "0.25"] in rows
