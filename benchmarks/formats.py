"""What channels last and bfloat16 change in a gradient of all four terms: its time and its rounding.

python -m benchmarks.formats [--rounds 15]

The CNN of benchmarks/test_gradient_cost.py, untrained, batches of 128. Time is the median of turns
against that of float32 as it comes; an error is ‖g − g64‖ / ‖g64‖ for the gradient of one term, g64 that
of float64 on the same draw.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from benchmarks.conftest import interleaved
from benchmarks.test_gradient_cost import cnn, setting
from phiopt._types import Params
from phiopt._vector import to_vector
from phiopt.objective import CurvatureTerm, Frobenius, Objective, Sample, Stream
from phiopt.objective.passes import gradient_of

CURVATURES = {"exact": Frobenius(batch=None), "default": Frobenius()}
TERMS = ("task", "noise", "curvature")
Posed = tuple[Objective, Params, Sample]


def cast(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda t: t.to(dtype) if t.is_floating_point() else t


def channels_last(t: Tensor) -> Tensor:
    return t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t


FORMATS = {
    "float32": cast(torch.float32),
    "channels last": channels_last,
    "bfloat16": cast(torch.bfloat16),
}


def posed(curvature: Frobenius) -> Posed:
    """A step of a solver."""
    torch.manual_seed(0)
    objective, params, _ = setting(cnn())
    objective = objective.with_term(CurvatureTerm(curvature))
    return objective, params, objective.sample(params, None, 0, Stream.STEP, 0)


def changed(problem: Posed, change: Callable[[Tensor], Tensor]) -> Posed:
    objective, params, sample = problem
    teacher, params, sample = tree_map(
        lambda x: change(x) if isinstance(x, Tensor) else x,
        (objective.term("proximity").teacher, params, sample),
    )
    proximity = replace(objective.term("proximity"), teacher=teacher)
    return objective.with_term(proximity), params, sample


def gradient(problem: Posed, term: str) -> Tensor:
    objective, params, sample = problem
    slopes = gradient_of(lambda w: (objective.evaluate(w, sample, [term])[term], {}), params)[2]
    return to_vector(slopes).double()


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    seconds = {}
    for name, curvature in CURVATURES.items():
        forms = {form: changed(posed(curvature), change) for form, change in FORMATS.items()}
        calls: dict[str, Callable[[], object]] = {
            form: partial(objective.value_and_grad, params, sample)
            for form, (objective, params, sample) in forms.items()
        }
        seconds[name] = interleaved(calls, rounds)
    exact = posed(CURVATURES["exact"])
    double = changed(exact, cast(torch.float64))
    true = {term: gradient(double, term) for term in TERMS}
    head = [*(f"time, {name} step" for name in CURVATURES), *(f"error, {term}" for term in TERMS)]
    print(f"| | {' | '.join(head)} |\n| --- |{' --- |' * len(head)}")
    for form, change in FORMATS.items():
        times = [f"{taken[form] / taken['float32']:.2f}" for taken in seconds.values()]
        gradients = {term: gradient(changed(exact, change), term) for term in TERMS}
        errors = [f"{(gradients[t] - true[t]).norm() / true[t].norm():.1e}" for t in TERMS]
        print(f"| {form} | {' | '.join([*times, *errors])} |")


if __name__ == "__main__":
    main()
