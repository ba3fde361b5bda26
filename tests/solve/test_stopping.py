import torch

from phiopt.objective import Stream
from phiopt.solve.counted import Counted
from phiopt.solve.stopping import WARM_UP, Stationarity
from tests.cases import ridge


def setting(tol, smooth):
    case = ridge()
    objective = case.objective()
    sample = objective.sample(case.start, None, 0, Stream.TRAIN, 0)
    rule = Stationarity(Counted(objective), case.start, tol, smooth=smooth, confirm=[sample])
    argmin = {"weight": case.argmin(sample.draws["noise"][0])[None]}
    return case, objective, sample, rule, argmin


def ask(rule, objective, params, sample):
    gradient = objective.value_and_grad(params, sample)[2]
    return rule.reached(params, gradient, float(gradient["weight"].norm()))


def test_a_frozen_gradient_speaks_for_itself():
    case, objective, sample, rule, argmin = setting(1e-6, smooth=False)
    assert not ask(rule, objective, case.start, sample)
    near = {"weight": argmin["weight"] + 1e-3 * (case.start["weight"] - argmin["weight"])}
    assert not ask(rule, objective, near, sample)
    assert ask(rule, objective, argmin, sample)


def test_the_average_is_believed_only_after_its_warm_up():
    _, objective, sample, rule, argmin = setting(1e-6, smooth=True)
    answers = [ask(rule, objective, argmin, sample) for _ in range(WARM_UP)]
    assert answers == [False] * (WARM_UP - 1) + [True]


def test_alternating_gradients_do_not_deceive_it():
    case, _, _, rule, _ = setting(0.1, smooth=True)
    gradient = torch.ones(1, 6, dtype=torch.float64)
    for step in range(6 * WARM_UP):
        signed = {"weight": gradient * (-1) ** step}
        assert not rule.reached(case.start, signed, float(gradient.norm()))
    assert rule.objective.gradient > 1  # the average was small, and the confirmation said no


def test_a_jump_makes_it_forget():
    case, objective, sample, rule, argmin = setting(1e-6, smooth=True)
    for _ in range(WARM_UP - 1):
        assert not ask(rule, objective, argmin, sample)
    rule.forget()
    assert not ask(rule, objective, argmin, sample)
    assert not ask(rule, objective, case.start, sample)


def test_without_a_tolerance_only_zero_is_stationary():
    _, objective, sample, rule, argmin = setting(0.0, smooth=True)
    assert not ask(rule, objective, argmin, sample)  # 1e-16, not 0
    still = {"weight": torch.zeros(1, 6, dtype=torch.float64)}
    assert not rule.reached(argmin, still, 0.0)  # and the confirmation disagrees
