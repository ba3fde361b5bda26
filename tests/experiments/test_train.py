"""The shared training loop and its choice of a learning rate."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from experiments.data import Examples
from experiments.models import CNN, MLP, built
from experiments.train import CrossEntropy, Recipe, fit, tune
from phiopt import criteria
from tests.experiments.cases import made_up


@pytest.fixture
def blobs():
    """Three well separated classes of 2×2 images, as a training and a validation part."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(120) % 3
    x = torch.eye(4)[y] * 2 + 0.3 * torch.randn(120, 4, generator=generator)
    both = Examples(x.reshape(-1, 1, 2, 2), y)
    return both.take(torch.arange(90)), both.take(torch.arange(90, 120))


def model():
    return built(lambda: MLP(4, (8,), 3), 0)


def test_training_learns_a_copy_and_leaves_the_model(blobs):
    untrained = model()
    before = {name: value.clone() for name, value in untrained.state_dict().items()}
    trained = fit(untrained, *blobs, Recipe(100, 16, ()), 0.01, seed=0)
    assert criteria.accuracy(trained.model, blobs[1]) == 1.0
    assert untrained.training
    for name, value in untrained.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_curve_begins_with_what_was_spent_and_has_a_point_for_each_epoch(blobs):
    trained = fit(model(), *blobs, Recipe(62, 16, ()), 0.01, seed=0, spent=50)
    # 90 examples hold five full batches of 16.
    assert [point.gradients for point in trained.curve] == [50, 55, 60, 62]
    assert trained.curve[0][1:] == criteria.evaluate(model(), blobs[1])
    assert trained.curve[-1][1:] == criteria.evaluate(trained.model, blobs[1])


def test_one_full_batch_step_is_adams(blobs):
    train, validation = blobs
    trained = fit(model(), train, validation, Recipe(1, 90, ()), 0.01, seed=3)
    expected = model()
    F.cross_entropy(expected(train.x), train.y).backward()
    torch.optim.Adam(expected.parameters(), lr=0.01).step()
    for ours, theirs in zip(trained.model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_cnn_trains_as_in_pytorchs_own_memory_format():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(40, 3, 8, 8, generator=generator, dtype=torch.float64)
    data = Examples(x, torch.arange(40) % 3)
    net = built(lambda: CNN(3, 8, (4, 5), 6, 3).double(), 0)
    trained = fit(net, data, data, Recipe(3, 40, ()), 0.01, seed=0).model
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(net(data.x), data.y).backward()
        optimizer.step()
    for ours, theirs in zip(trained.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_seed_alone_decides(blobs):
    recipe = Recipe(10, 16, ())
    runs = [fit(model(), *blobs, recipe, 0.01, seed=seed).model for seed in (0, 0, 1)]
    assert torch.equal(runs[0].head.weight, runs[1].head.weight)
    assert not torch.equal(runs[0].head.weight, runs[2].head.weight)


def test_the_rate_with_the_lowest_validation_loss_is_kept(blobs):
    recipe = Recipe(budget=30, batch_size=16, learning_rates=(1e-6, 1e-2, 1e-5))
    chosen = tune(model(), *blobs, recipe, seed=0).equal_gradients
    losses = [
        fit(model(), *blobs, recipe, rate, seed=0).curve[-1] for rate in recipe.learning_rates
    ]
    assert chosen.learning_rate == 1e-2
    assert chosen.curve[-1].cross_entropy == min(point.cross_entropy for point in losses)


def test_what_was_spent_comes_off_the_budget(blobs):
    recipe = Recipe(budget=30, batch_size=16, learning_rates=(1e-3,))
    chosen = tune(model(), *blobs, recipe, seed=0, spent=20.5).equal_gradients
    assert [point.gradients for point in chosen.curve] == [20.5, 25.5, 29.5]
    assert recipe.epoch(blobs[0]) == 5
    with pytest.raises(ValueError, match="30 gradient evaluations, 30 spent before"):
        tune(model(), *blobs, recipe, seed=0, spent=30)


def test_one_training_gives_both_views(blobs):
    recipe = Recipe(budget=31, batch_size=16, learning_rates=(1e-3,))
    ours, longer = tune(model(), *blobs, recipe, seed=0, spent=18)
    assert [point.gradients for point in ours.curve] == [18, 23, 28, 31]
    assert [point.gradients for point in longer.curve] == [0, 5, 10, 15, 20, 25, 30, 31]
    for view, steps in ((ours, 13), (longer, 31)):
        alone = fit(model(), *blobs, Recipe(steps, 16, ()), 1e-3, seed=0)
        assert torch.equal(view.model.head.weight, alone.model.head.weight)
        assert not view.model.training
        assert view.curve[-1][1:] == alone.curve[-1][1:]


def test_the_views_are_one_where_nothing_was_spent(blobs):
    ours, longer = tune(model(), *blobs, Recipe(12, 16, (1e-3, 1e-2)), seed=0)
    assert ours == longer
    assert ours.model is longer.model


@pytest.mark.slow
def test_each_view_has_the_rate_that_is_best_for_its_length(blobs):
    # The large step is ahead after five and ends behind the small one.
    recipe = Recipe(budget=400, batch_size=16, learning_rates=(1.0, 1e-2))
    ours, longer = tune(model(), *blobs, recipe, seed=0, spent=395)
    assert (ours.learning_rate, longer.learning_rate) == (1.0, 1e-2)


def test_divergence_is_skipped_and_an_error_when_nothing_is_left(blobs):
    chosen = tune(model(), *blobs, Recipe(10, 16, (1e30, 1e-3)), seed=0)
    assert {view.learning_rate for view in chosen} == {1e-3}
    with pytest.raises(FloatingPointError, match="diverged at each rate"):
        tune(model(), *blobs, Recipe(10, 16, (1e30,)), seed=0)


def test_batch_normalisation_trains_in_training_mode_and_is_measured_in_evaluation(blobs):
    normed = built(lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 3)), 0)
    trained = fit(normed, *blobs, Recipe(10, 16, ()), 0.01, seed=0)
    assert trained.model[1].num_batches_tracked == 10
    assert not trained.model.training


class Doubled(CrossEntropy):
    """Twice the loss at twice the price, with a random number of its own."""

    def prepare(self, x, y, generator):
        self.drawn.append(torch.rand((), generator=generator).item())
        return x, y

    def __call__(self, model, *prepared):
        return 2 * super().__call__(model, *prepared)


def test_another_loss_is_minimised_and_its_cost_comes_off_the_budget(blobs):
    loss = Doubled(cost=2)
    object.__setattr__(loss, "drawn", [])
    recipe = Recipe(budget=21, batch_size=16, learning_rates=(1e-2,))
    doubled = tune(model(), *blobs, recipe, seed=0, spent=1, loss=loss).equal_gradients
    assert [point.gradients for point in doubled.curve] == [1, 11, 21]
    # Ten steps, and on to the 21 of the equal-epoch view.
    assert len(set(loss.drawn)) == len(loss.drawn) == 21
    # Adam's steps do not depend on the scale of the loss.
    plain = fit(model(), *blobs, Recipe(10, 16, ()), 1e-2, seed=0)
    torch.testing.assert_close(doubled.model.head.weight, plain.model.head.weight)
    fit(model(), *blobs, recipe, 1e-2, seed=0, spent=1, loss=loss)
    assert loss.drawn[:10] == loss.drawn[21:]


def test_short_passes_are_not_measured_one_by_one():
    few, many = made_up(100, 0), made_up(700, 0)
    recipe = Recipe(800, 100, (1e-3,))
    assert (recipe.epoch(few), recipe.interval(few)) == (1, 20)
    # Whole passes: three of seven steps are the first that are at least twenty.
    assert (recipe.epoch(many), recipe.interval(many)) == (7, 21)
    assert Recipe(800, 10, ()).interval(many) == 70
    short = Recipe(85, 100, ())
    curve = fit(built(lambda: MLP(784, (2,), 10), 0), few, few, short, 1e-3, seed=0).curve
    assert [point.gradients for point in curve] == [*range(0, 85, 3), 85]
