import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from phiopt.objective.importance import UNIFORM, importance_sample, inclusion, leverage_scores
from phiopt.objective.mean_loss import Task
from tests.cases import classification, dense_hessian, flatten, mlp, randn
from tests.cases import parameters as parameters_of


def squares(outputs, targets):
    return ((outputs - targets) ** 2).mean(1)


def linear(params, inputs):
    return inputs @ params["w"]


@settings(max_examples=50, deadline=None)
@given(
    scores=st.lists(st.floats(1e-6, 1e6), min_size=3, max_size=40),
    share=st.floats(0.05, 0.95),
)
def test_probabilities_sum_to_the_size_and_follow_the_scores_below_one(scores, share):
    scores = torch.tensor(scores, dtype=torch.float64)
    size = max(1, int(share * len(scores)))
    actual = inclusion(scores, size)
    torch.testing.assert_close(actual.sum(), torch.tensor(float(size), dtype=torch.float64))
    assert actual.max() <= 1
    assert actual.min() > 0
    below = actual < 1 - 1e-9
    if below.any():
        ratio = actual[below] / scores[below]
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
        assert (ratio[0] * scores[~below] >= 1 - 1e-9).all()


def test_each_example_weighs_in_expectation_what_it_weighs_in_the_batch():
    """The mean over a fine grid of offsets; and the parts never repeat an example."""
    n, size, grid = 20, 6, 4000
    task = Task(linear, squares, torch.arange(n, dtype=torch.float64)[:, None], randn(n, 1))
    scores = randn(n, seed=2).square() ** 3
    total = torch.zeros(n, dtype=torch.float64)
    for k in range(grid):
        part = importance_sample(
            task, scores, size, torch.tensor((k + 0.5) / grid, dtype=torch.float64)
        )
        places = part.inputs[:, 0].long()
        assert len(set(places.tolist())) == size
        assert part.weights.max() <= 1 / UNIFORM
        total[places] += part.weights / size / grid
    torch.testing.assert_close(total, torch.full_like(total, 1 / n), rtol=5e-3, atol=0)


def test_the_hessian_of_a_fitted_batch_hardly_varies():
    """Half of the variation or less that a blind choice of as many examples has."""
    net = mlp(4, 8, 3, seed=1)
    x = randn(60, 4, seed=3)
    y = (x @ randn(4, 3, seed=4)).argmax(1)
    optimizer = torch.optim.Adam(net.parameters(), 3e-2)
    with torch.enable_grad():
        for _ in range(300):
            optimizer.zero_grad()
            cross_entropy(net(x), y).backward()
            optimizer.step()
    w = parameters_of(net)
    task = Task(lambda p, z: torch.func.functional_call(net, p, (z,)), _losses, x, y)
    whole = dense_hessian(task, w)
    scores = leverage_scores(task, task.outputs(w))

    def error(scores):
        offsets = (torch.arange(16, dtype=torch.float64) + 0.5) / 16
        results = [dense_hessian(importance_sample(task, scores, 16, u), w) for u in offsets]
        return torch.stack([(h - whole).norm() for h in results]).square().mean().sqrt()

    assert error(scores) < 0.5 * error(torch.ones_like(scores))


def _losses(outputs, targets):
    return cross_entropy(outputs, targets, reduction="none")


def test_the_influence_vanishes_where_cross_entropy_is_fitted():
    margins = torch.tensor([0.0, 2.0, 5.0, 10.0, 20.0], dtype=torch.float64)
    outputs = torch.stack([margins, torch.zeros(5), torch.zeros(5)], 1)
    task = Task(linear, _losses, outputs, torch.zeros(5, dtype=torch.long))
    scores = leverage_scores(task, outputs)
    assert (scores.diff() < 0).all()
    away = 1 - outputs.softmax(1)[:, 0]
    ratio = scores / away
    assert ratio.max() / ratio.min() < 3


def test_the_influence_stays_where_a_squared_error_is_fitted():
    targets = randn(6, 2)
    scores = leverage_scores(Task(linear, squares, targets, targets), targets)
    torch.testing.assert_close(scores, scores[:1].expand(6))
    assert scores[0] > 0


def test_outputs_that_are_not_finite_choose_what_is_not_finite():
    objective, params = classification(count=40)
    task = objective._task(objective.sample(params, None, 0, 0, 0))
    outputs = task.outputs(params).clone()
    outputs[3] = torch.nan
    part = importance_sample(
        task, leverage_scores(task, outputs), 16, torch.tensor(0.5, dtype=torch.float64)
    )
    assert not part(params).isfinite()


def test_it_repeats_and_leaves_the_task_alone():
    objective, params = classification(count=40)
    task = objective._task(objective.sample(params, None, 0, 0, 0))
    scores = leverage_scores(task, task.outputs(params))
    parts = [
        importance_sample(task, scores, 16, torch.tensor(0.3, dtype=torch.float64))
        for _ in range(2)
    ]
    assert torch.equal(parts[0].inputs, parts[1].inputs)
    assert len(task) == 40
    assert task.weights is None
    assert flatten(params).isfinite().all()
