"""A thousand random objectives: the derivatives that a solve uses are right, or the problem was refused."""

import re
from collections import Counter
from copy import deepcopy

import pytest
import torch

from phiopt.bilevel.adjoint import detached
from phiopt.objective import Spectral, Stream
from phiopt.pose import pose
from tests.cases import generator, randn
from tests.derivatives.objectives import case

CASES, QUICK = 1000, range(0, 1000, 100)
STEPS = (1e-5, 1e-6, 1e-7, 1e-4, 1e-3)
TOLERANCE = 1e-5
GOOD = ("right", "refused")


def posed(models, case):
    student, loss = models
    teacher = deepcopy(student)
    with torch.no_grad():
        for p in teacher.parameters():
            p.mul_(0.9)
    return pose(
        teacher,
        student,
        case.lambdas,
        case.data,
        loss=loss,
        scale="paper",
        seed=case.seed,
        **case.options,
    )


def error(given, clean, params, sample, seed):
    """The relative error of the gradient of one objective along a random direction, against differences
    of the values of another; the least of those of several widths, for there may be kinks.
    """
    _, _, gradient = given.value_and_grad(params, sample)
    direction = {n: randn(*p.shape, seed=seed + i) for i, (n, p) in enumerate(params.items())}
    if not sample.inputs.is_floating_point():
        direction["0.weight"][0] = 0  # the row of an embedding that is held still
    moves = [gradient[n] * direction[n] for n in params]
    slope = float(sum(move.sum() for move in moves))
    size = float(sum(move.square().sum() for move in moves)) ** 0.5
    least = float("inf")
    for h in STEPS:
        ends = [{n: p + s * h * direction[n] for n, p in params.items()} for s in (1, -1)]
        up, down = (float(clean.value(end, sample)) for end in ends)
        difference = (up - down) / (2 * h)
        rounding = 4 * torch.finfo(torch.float64).eps * max(abs(up), abs(down)) / h
        apart = max(abs(difference - slope) - rounding, 0.0)
        least = min(least, apart / max(size + abs(difference), 1e-6))
        if least < TOLERANCE / 10:
            break
    return least


def product_error(given, clean, params, sample, seed):
    """The same of ∇²L(w) v, against differences of gradients."""
    direction = {n: randn(*p.shape, seed=seed + i) for i, (n, p) in enumerate(params.items())}
    results = [] if sample.inputs.is_floating_point() else ["0.weight"]
    for name in results:
        direction[name][0] = 0
    product = given.hessian(params, sample)(direction)
    least = float("inf")
    for h in STEPS:
        ends = [{n: p + s * h * direction[n] for n, p in params.items()} for s in (1, -1)]
        up, down = (clean.value_and_grad(end, sample)[2] for end in ends)
        difference = {n: (up[n] - down[n]) / (2 * h) for n in up}
        for name in results:
            product[name][0] = difference[name][0] = 0
        apart = {n: product[n] - difference[n] for n in product}
        least = min(least, norm(apart) / max(norm(product) + norm(difference), 1e-6))
        if least < TOLERANCE / 10:
            break
    return least


def norm(params):
    return float(sum(p.square().sum() for p in params.values())) ** 0.5


def names_the_place(refusal, case):
    if case.place is None:
        return re.match(r"loss: |student: its loss ", refusal)
    return re.match(rf"student: .*\b{case.place}( \(Calling\)| has no third| disagrees)", refusal)


def outcome(seed):
    """How a case ended, one of GOOD if it is well, and its story."""
    this = case(seed)
    torch.manual_seed(seed)
    curved = "curvature" in this.lambdas.active
    falsely = ("harmless", "nothing") if curved else ("harmless", "nothing", "twice")
    try:
        given = posed(this.given, this)
    except TypeError as refusal:
        story = f"{this}: {refusal}"
        if this.kind in falsely:
            return "falsely refused", story
        return ("refused" if names_the_place(str(refusal), this) else "no place"), story
    clean = given
    if this.given is not this.clean:
        try:
            clean = posed(this.clean, this)
        except TypeError as refusal:
            return "falsely refused", f"{this}, clean: {refusal}"
    objective, clean_objective = (
        problem.objective.with_tensors(detached(problem.objective.tensors()))
        for problem in (given, clean)
    )
    if (
        this.kind == "twice"
        and objective.term("curvature")
        and this.lambdas.active != ["proximity"]
    ):
        return "wrong", f"{this}: the curvature is reported"
    params = {
        n: p + 0.1 * torch.randn(p.shape, generator=generator(seed), dtype=p.dtype)
        for n, p in given.start.items()
    }
    sample = clean_objective.sample(params, None, seed, Stream.TRAIN, 0)
    case_of = objective, clean_objective, params, sample, 100 * seed
    results = [error(*case_of)]
    # The gradient of a spectral norm leaves out how its vector moves, by its docstring.
    settled = not (curved and isinstance(this.options["curvature"], Spectral))
    if objective.term("curvature") and settled:
        results.append(product_error(*case_of))
    return ("right" if max(results) < TOLERANCE else "wrong"), f"{this}: {results}"


@pytest.mark.parametrize("seed", QUICK)
def test_a_gradient_is_right_or_refused(seed):
    how, story = outcome(seed)
    assert how in GOOD, f"{how}: {story}"


@pytest.mark.slow
@pytest.mark.campaign
@pytest.mark.parametrize("part", range(10))
def test_a_thousand_gradients_are_right_or_refused(part):
    ends = [outcome(seed) for seed in range(part, CASES, 10)]
    bad = [f"{how}: {story}" for how, story in ends if how not in GOOD]
    assert not bad, f"{Counter(how for how, _ in ends)}\n" + "\n".join(bad)
