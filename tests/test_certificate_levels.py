"""How much `initialize` measures of its result: certificate="light", "full" or None."""

import pytest
import torch

import phiopt
from phiopt import _task_checks
from phiopt.objective import Objective, Stream
from phiopt.solve import Solution, Status, with_all_terms
from tests.solutions import QUARTERS, QUICK, X, Y, solved, student, teacher

WITHOUT = (0.5, 0.5, 0, 0)
"""λ without noise and curvature."""


def gradients_of(monkeypatch, **options):
    """A solution, and the gradients that it took beside the solver's."""
    calls = []
    with monkeypatch.context() as patch:
        plain = Objective.value_and_grad

        def counted(self, params, sample):
            calls.append(sample.step)
            return plain(self, params, sample)

        patch.setattr(Objective, "value_and_grad", counted)
        solution = solved(**options)
    return solution, len(calls) - solution.stats.gradient


def test_each_level_takes_the_gradients_that_it_says(monkeypatch):
    none, beside = gradients_of(monkeypatch, certificate=None)
    assert none.certificate is None
    assert beside == 0
    light, beside = gradients_of(monkeypatch)
    assert beside == 2 * 2  # two draws, at both ends
    full, beside = gradients_of(monkeypatch, certificate="full")
    assert beside == 2 * 4 + 2  # and two beside w1, along the gradient
    for solution in (none, full):
        assert torch.equal(solution.params["0.weight"], light.params["0.weight"])
        assert solution.terms == light.terms
    assert light.certificate.draws == full.certificate.draws == 4
    assert light.certificate.objective == pytest.approx(full.certificate.objective, rel=1e-12)
    assert light.certificate.start_objective == pytest.approx(full.certificate.start_objective)
    assert light.certificate.curvature_along_gradient is None
    assert full.certificate.curvature_along_gradient is not None
    # The means of two and of four draws of one gradient.
    ratio = light.certificate.start_gradient_norm / full.certificate.start_gradient_norm
    assert 1 / 3 < ratio < 3


def test_terms_without_weight_are_measured_by_the_full_one_alone():
    light, full = solved(WITHOUT), solved(WITHOUT, certificate="full")
    assert list(light.terms) == list(light.start_terms) == ["task", "proximity"]
    assert list(full.terms) == list(full.start_terms) == ["task", "proximity", "noise", "curvature"]
    problem = phiopt.pose(teacher(), student(), QUARTERS, (X, Y), batch_size=16)
    draws = [problem.objective.sample(problem.start, 16, 0, Stream.FRESH, i) for i in range(4)]
    for params, terms in ((problem.start, full.start_terms), (full.params, full.terms)):
        values = [problem.objective.evaluate(params, draw) for draw in draws]
        for name in ("noise", "curvature"):
            expected = torch.stack([value[name] for value in values]).mean()
            assert terms[name] == pytest.approx(float(expected), rel=1e-9)


def test_without_weight_no_third_derivative_is_examined(monkeypatch):
    calls = []
    plain = _task_checks.require_derivatives
    monkeypatch.setattr(
        _task_checks, "require_derivatives", lambda *given: calls.append(given) or plain(*given)
    )
    solved(WITHOUT)
    assert not calls
    problem = phiopt.pose(teacher(), student(), WITHOUT, (X, Y))
    for _ in range(2):
        problem.solve(solver=QUICK, certificate="full")
    assert len(calls) == 1  # once for the problem
    solved(QUARTERS)
    assert len(calls) == 2


def test_a_term_that_raises_is_left_out_and_its_error_kept():
    solution = solved(WITHOUT, certificate=None)
    problem = phiopt.pose(teacher(), student(), QUARTERS, (X, Y), batch_size=16)
    draws = [problem.objective.sample(problem.start, 16, 0, Stream.FRESH, 0)]
    calls = []

    def frail(self, params, sample, names=None):
        calls.append(names)
        if names == ["noise"]:
            raise RuntimeError("out of memory")
        return {name: torch.ones(()) for name in names}

    outcome = phiopt.TorchOpt(steps=1).solve(problem.objective, problem.start)
    bare = type(outcome)(**{**vars(outcome), "terms": {"task": 1.0}, "start_terms": {"task": 2.0}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Objective, "evaluate", frail)
        whole = with_all_terms(
            bare, problem.objective, problem.start, solution.params, draws, ["proximity"]
        )
    assert whole.terms == {"task": 1.0, "curvature": 1.0}
    assert whole.start_terms == {"task": 2.0, "curvature": 1.0}
    assert str(whole.error) == "out of memory"
    assert whole.vouched().status is Status.REPORT_FAILED


def test_a_solution_without_a_certificate_is_printed_and_saved(tmp_path):
    solution = solved(certificate=None)
    assert "on fresh draws" not in str(solution)
    assert "gradient norm" not in str(solution)
    solution.save(tmp_path / "solution.safetensors")
    again = Solution.load(tmp_path / "solution.safetensors", student())
    assert again.certificate is None
    assert str(again) == str(solution)


@pytest.mark.parametrize("bad", ["heavy", 3, True])
def test_another_level_is_refused(bad):
    with pytest.raises((ValueError, TypeError), match=r"^certificate: got .*one of light, full"):
        solved(certificate=bad)
