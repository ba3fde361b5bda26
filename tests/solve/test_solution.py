import pickle
from dataclasses import replace

import pytest
from torch import nn

from phiopt.bilevel import SearchStatus
from phiopt.bilevel.trial import Learned
from phiopt.objective import Lambdas
from phiopt.solve import Certificate, Solution, SolveError, Spectrum, Stats, Status


def solution(status=Status.SOLVED, curvature=0.5):
    terms = {"task": 0.25, "proximity": 3.0}
    certificate = Certificate(
        gradient_norm=1e-3,
        gradient_norm_error=2e-4,
        start_gradient_norm=7.5,
        curvature_along_gradient=curvature,
        objective=0.26,
        start_objective=0.9,
        decrease_error=0.02,
        terms={"task": 0.27},
        standard_errors={"task": 0.01},
        draws=4,
        dead_units={"0.weight": 3},
        spectrum=Spectrum(-0.5, 80.0, 0.003, 21),
        restarts=(0.27, 0.31),
    )
    return Solution(
        student=nn.Linear(1, 1),
        params={},
        status=status,
        terms=terms,
        start_terms={"task": 1.5, "proximity": 0.0},
        objective=0.25,
        start_objective=0.75,
        scale="relative",
        divisors={"proximity": 94.0},
        lambdas=Lambdas(0.5, 0.5, 0.0, 0.0),
        certificate=certificate,
        history=[],
        stats=Stats(150, 152, 400, 300, 1, 2.5),
    )


def test_which_statuses_are_failures():
    failed = {status for status in Status if status.failed}
    assert set(Status) - failed == {Status.SOLVED, Status.BUDGET_SPENT, Status.SAMPLE_TOO_SMALL}
    assert len({status.value for status in Status}) == len(Status)


def test_the_error_gives_the_advice_and_the_solution():
    failed = solution(Status.STEP_LIMIT)
    error = SolveError(failed)
    assert str(error) == f"STEP_LIMIT: {Status.STEP_LIMIT.value}"
    assert error.solution is failed
    assert pickle.loads(pickle.dumps(error)).solution.status is Status.STEP_LIMIT


def test_what_reading_the_data_raised_is_in_the_report_and_in_the_error():
    failed = replace(solution(Status.DATA_FAILED), error=OSError("gone"))
    assert str(failed).splitlines()[:2] == str(SolveError(failed)).splitlines()
    assert str(failed).splitlines()[1] == "OSError: gone"


@pytest.mark.parametrize(("curvature", "shown"), [(0.5, "along it 0.5"), (None, "along it -")])
def test_the_report_says_everything(curvature, shown):
    report = str(solution(curvature=curvature))
    for expected in (
        "SOLVED: The gradient norm fell",
        "objective 0.75 -> 0.25 (relative scale); on fresh draws 0.9 -> 0.26",
        "gradient norm 0.001 ± 0.0002 of the start's",
        shown,
        "Hessian eigenvalues from -0.5 (± 0.003) to 80",
        "dead units: 3 in 0.weight",
        "restarts reached 0.27, 0.31",
        "150 steps, 152 gradients, 400 forward passes, 300 HVPs, 1 roll-backs, 2.5 s",
    ):
        assert expected in report
    rows = {line.split()[0]: line.split() for line in report.splitlines()}
    assert rows["task"] == ["task", "0.5", "1", "1.5", "0.25", "0.27", "±", "0.01"]
    assert rows["proximity"] == ["proximity", "0.5", "94", "0", "3"]
    assert "noise" not in rows


def test_a_search_that_did_not_end_well_is_in_the_report():
    plain = solution()
    assert "spectral" not in str(plain)
    short = replace(
        plain,
        certificate=replace(plain.certificate, curvature_error=0.04, unsettled=2),
        stats=replace(plain.stats, unsettled=7),
    )
    assert "spectral norm's eigenvector known to 0.04" in str(short)
    assert "7 times the spectral norm's eigenvector was not found" in str(short)


def test_a_prompt_and_a_notebook_show_the_report():
    shown = solution()
    assert repr(shown) == str(shown)
    assert len(repr(shown).splitlines()) <= 15
    assert shown._repr_html_().startswith("<pre>SOLVED")
    assert "&gt;" in shown._repr_html_()  # "->", escaped
    searched = Learned(shown, shown.lambdas, None, None, 0.5, 0.7, [], SearchStatus.BUDGET_SPENT)
    assert repr(searched) == str(searched)
