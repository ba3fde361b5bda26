"""What must hold of a run in which a user's part failed, however it ended."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from phiopt.bilevel import AdjointError
from phiopt.objective import Lambdas, Stream
from phiopt.pose import pose
from phiopt.solve import Solution, SolveError, Status
from tests.cases import flatten
from tests.solve.fault_cases import SIZE, WITHOUT, Case, Run
from tests.solve.faults import VALUES, Fault, X, Y, same


def numbers(value: Any, name: str = "") -> dict[str, float]:
    """The numbers in dataclasses, dictionaries, lists and tensors, by where they are."""
    if isinstance(value, bool) or value is None:
        return {}
    if isinstance(value, int | float):
        return {name: float(value)}
    if isinstance(value, Tensor):
        return {name: float(value.detach().abs().max())}
    if is_dataclass(value):
        value = {f.name: getattr(value, f.name) for f in fields(value)}
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {}
    parts = [numbers(part, f"{name}.{key}") for key, part in value.items()]
    return {key: number for part in parts for key, number in part.items()}


REPORTED = (
    "params",
    "terms",
    "start_terms",
    "objective",
    "start_objective",
    "certificate",
    "divisors",
)
NAMES = (
    "teacher",
    "student",
    "loss",
    "data",
    "lift",
    "neighbourhood",
    "solver",
    "outer",
    "adjoint",
)


def check(case: Case) -> bool:
    """Run a case and assert every rule; whether the fault was met."""
    fault = Fault(case.kind, case.when, case.lasting)
    run = Run(case, fault)
    before, actual, error = run.held(), None, None
    try:
        actual = run()
    except BaseException as raised:
        error = raised
    if case.verb != "solve_many":  # which seeds nothing
        assert torch.equal(run.held(), before), "an argument or the global generator was changed"
    if isinstance(error, KeyboardInterrupt) and not fault.raised:
        raise error
    if error is None:
        check_result(case, fault, actual)
    else:
        check_error(fault, error)
        if isinstance(error, SolveError):
            check_solution(case, fault, error.solution)
    return fault.struck


def check_error(fault: Fault, error: BaseException) -> None:
    if not fault.struck:
        assert isinstance(error, SolveError), f"nothing failed, yet {error!r}"
        return
    if fault.raised:
        assert fault.reached(error), f"not of the fault: {error!r}"
        return
    known = (SolveError, AdjointError, ValueError, TypeError, FloatingPointError)
    assert isinstance(error, known), repr(error)
    if not isinstance(error, SolveError | AdjointError):
        assert any(name in str(error) for name in NAMES), f"names no place: {error}"


def check_result(case: Case, fault: Fault, actual: Any) -> None:
    if case.kind == "KeyboardInterrupt" and fault.raised:
        assert case.verb == "initialize", "an interrupt was swallowed"
        assert not case.throw
        assert actual.status is Status.INTERRUPTED
    if case.verb == "solve_many":
        assert not fault.raised, "what was raised is lost"
        for outcome in actual:
            check_numbers(case, fault, outcome)
        return
    if case.verb == "learn":
        solution, error = actual.solution, actual.error
        assert isfinite(actual.outer)
        assert actual.outer <= actual.start_outer
    else:
        solution, error = actual, actual.error
        assert not (case.throw and solution.status.failed)
    assert not fault.raised or fault.reached(error), f"what was raised is lost: {solution.status}"
    check_solution(case, fault, solution)


def check_solution(case: Case, fault: Fault, solution: Solution) -> None:
    own = dict(solution.student.named_parameters())
    for name, value in solution.params.items():
        assert torch.equal(own[name], value), f"student and params differ in {name}"
    check_numbers(case, fault, solution)
    if solution.status is Status.SOLVED and "curvature" in solution.terms:
        assert solution.certificate.spectrum is not None, "SOLVED, and the spectrum is lost"


def check_numbers(case: Case, fault: Fault, actual: Any) -> None:
    assert flatten(actual.params).isfinite().all(), "the best iterate is not finite"
    if isfinite(actual.start_objective):
        assert actual.objective <= actual.start_objective
    if actual.status.failed:
        return
    said = numbers({name: getattr(actual, name, None) for name in REPORTED})
    assert all(map(isfinite, said.values())), {k: v for k, v in said.items() if not isfinite(v)}
    if not case.lasting and case.verb == "initialize" and case.kind in VALUES:
        large = {name: value for name, value in said.items() if abs(value) > 1e12}
        assert not large, f"{actual.status}: {large}"
        posed = problem_without_a_fault(case)
        start, end = (value(posed, w) for w in (posed.start, actual.params))
        small = actual.status is Status.SAMPLE_TOO_SMALL  # says itself that it may be no better
        assert small or end <= 1.1 * start + 0.02, f"{actual.status}, from {start} to {end}"
        for name, divisor in posed.objective.divisors.items():
            ratio = actual.divisors.get(name, 1.0) / divisor
            # A loader's first batch may have been refused, and the next be another one.
            assert 1 / 30 < ratio < 30, (
                f"{actual.status}: {name} is divided by {ratio:.3g} of its size"
            )


def problem_without_a_fault(case: Case) -> Any:
    run = Run(case, same)
    return pose(run.teacher, run.student, run.lambdas, (X, Y), loss=run.loss, batch_size=SIZE)


def value(posed: Any, params: Any) -> float:
    """The task, proximity and noise, on all data, in the paper's scale."""
    objective = replace(posed.objective, lambdas=Lambdas.of(WITHOUT), divisors={})
    with torch.no_grad():
        sample = objective.sample(posed.start, None, 0, Stream.FRESH, 0)
        return float(objective.value({k: v.detach() for k, v in params.items()}, sample))
