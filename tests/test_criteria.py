"""The paper's measures against closed forms and plain loops."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from phiopt import criteria
from phiopt.objective import Corruption, Gaussian, Uniform


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def data():
    x = torch.rand(50, 1, 4, 4, generator=generator(), dtype=torch.float64)
    return x, torch.randint(3, (50,), generator=generator())


@pytest.fixture
def model():
    layer = nn.Linear(16, 3, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(3, 16, generator=generator(1), dtype=torch.float64))
        layer.bias.zero_()
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), layer)


class Spy(nn.Module):
    """Keeps the inputs that it is given."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(x)
        return torch.zeros(len(x), 2)


def squared(outputs, targets):
    return (outputs.squeeze(1) - targets) ** 2


def test_accuracy_and_cross_entropy_are_their_formulas(model, data):
    x, y = data
    outputs = model.eval()(x)
    assert criteria.accuracy(model, data) == (outputs.argmax(1) == y).double().mean()
    assert criteria.cross_entropy(model, data) == pytest.approx(F.cross_entropy(outputs, y).item())
    assert criteria.evaluate(model, data) == (
        criteria.accuracy(model, data),
        criteria.cross_entropy(model, data),
    )


@pytest.mark.parametrize("batch_size", [1, 7, 50, 1000])
def test_the_batch_size_does_not_matter(model, data, batch_size):
    expected = criteria.evaluate(model, data, batch_size=13)
    assert criteria.evaluate(model, data, batch_size=batch_size) == pytest.approx(expected)


def test_tensors_data_sets_and_loaders_are_the_same_data(model, data):
    expected = pytest.approx(criteria.evaluate(model, data))
    dataset = TensorDataset(*data)
    assert criteria.evaluate(model, dataset) == expected
    assert criteria.evaluate(model, DataLoader(dataset, 8)) == expected
    assert criteria.evaluate(model, DataLoader(dataset, 8, shuffle=True)) == expected


def test_targets_may_have_further_axes():
    torch.manual_seed(0)
    convolution = nn.Conv2d(1, 3, 1)
    x = torch.rand(6, 1, 4, 4)
    y = torch.randint(3, (6, 4, 4))
    outputs = convolution(x)
    hits = (outputs.argmax(1) == y).double()
    expected = (hits.mean().item(), F.cross_entropy(outputs, y).item())
    assert criteria.evaluate(convolution, (x, y), batch_size=4) == pytest.approx(expected)


def test_inputs_take_the_dtype_of_the_model(model, data):
    x, y = data
    single = (x.float(), y)
    assert criteria.cross_entropy(model, single) == pytest.approx(
        criteria.cross_entropy(model, data), abs=1e-6
    )


def test_gaussian_robustness_of_a_linear_model_is_its_closed_form():
    """E (w·(x + δε) - y)² = (w·x - y)² + δ² |w|²."""
    model = nn.Linear(5, 1, bias=False, dtype=torch.float64)
    x = torch.randn(400, 5, generator=generator(), dtype=torch.float64)
    y = torch.randn(400, generator=generator(1), dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0, 0.5, 0.0, 1.5]]))
        clean = squared(model(x), y).mean().item()
        weight = model.weight.square().sum().item()
    actual = criteria.robustness(model, (x, y), Gaussian(0.7, samples=50), loss=squared)
    assert actual == pytest.approx(clean + 0.49 * weight, rel=0.02)


def test_robustness_without_noise_is_the_loss(model, data):
    actual = criteria.robustness(model, data, Uniform(0.0, samples=3))
    assert actual == pytest.approx(criteria.cross_entropy(model, data))


def test_robustness_repeats_with_its_seed_alone(model, data):
    noise = Uniform(0.5)
    first = criteria.robustness(model, data, noise)
    assert criteria.robustness(model, data, noise) == first
    assert criteria.robustness(model, data, noise, seed=1) != first
    shuffled = DataLoader(TensorDataset(*data), 8, shuffle=True)
    assert criteria.robustness(model, shuffled, noise) == criteria.robustness(
        model, shuffled, noise
    )


def test_prediction_variance_is_that_of_the_probabilities():
    """Three models that always answer their own probabilities of two classes."""
    probabilities = torch.tensor([[0.2, 0.8], [0.5, 0.5], [0.8, 0.2]], dtype=torch.float64)
    models = []
    for row in probabilities:
        layer = nn.Linear(3, 2, dtype=torch.float64)
        nn.init.zeros_(layer.weight)
        with torch.no_grad():
            layer.bias.copy_(row.log())
        models.append(layer)
    data = (torch.rand(10, 3, generator=generator()), torch.zeros(10, dtype=torch.int64))
    # The unbiased variance of (.2, .5, .8) is .09, once for each class.
    assert criteria.prediction_variance(models, data) == pytest.approx(0.18)
    assert criteria.prediction_variance([models[0], models[0]], data) == 0
    with pytest.raises(ValueError, match="models: got 1"):
        criteria.prediction_variance(models[:1], data)


def test_predict_gives_probabilities_in_order(model, data):
    actual = criteria.predict(model, data, batch_size=7)
    assert actual.dtype == torch.float64
    torch.testing.assert_close(actual, model.eval()(data[0]).softmax(1))


def test_corruption_replaces_that_share_of_the_pixels_by_the_range():
    spy = Spy()
    x = torch.full((40, 3, 10, 10), 5.0)
    y = torch.zeros(40, dtype=torch.int64)
    criteria.corruption_curve(spy, (x, y), (0, 30, 100), low=2.0, high=3.0)
    clean, third, full = spy.seen
    assert torch.equal(clean, x)
    replaced = (third != 5).all(1)
    assert torch.equal(replaced, (third != 5).any(1))
    assert replaced.double().mean().item() == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 4000))
    assert full.min() >= 2
    assert full.max() <= 3
    assert full.mean().item() == pytest.approx(2.5, abs=0.02)


def test_the_corruption_curve_starts_clean_and_ends_at_chance(model, data):
    curve = criteria.corruption_curve(model, data, (0, 50, 100))
    assert curve.percentages == [0.0, 50.0, 100.0]
    assert (curve.accuracy[0], curve.cross_entropy[0]) == criteria.evaluate(model, data)
    # Nothing of the image is left, so that the answer cannot depend on it.
    noise = (torch.zeros_like(data[0]), data[1])
    assert criteria.corruption_curve(model, noise, (100,)).accuracy == curve.accuracy[2:]
    assert criteria.evaluate(model, data, Corruption(0.5)) == (
        curve.accuracy[1],
        curve.cross_entropy[1],
    )
    with pytest.raises(ValueError, match="percentages: got 130"):
        criteria.corruption_curve(model, data, (0, 130))


def test_nothing_of_the_callers_is_changed(model, data):
    model.train()
    model[1].eval()
    x, y = data[0].clone(), data[1].clone()
    before = torch.random.get_rng_state()
    criteria.robustness(model, DataLoader(TensorDataset(*data), 8, shuffle=True), Uniform(0.5))
    criteria.corruption_curve(model, data, (30,))
    assert torch.equal(before, torch.random.get_rng_state())
    assert [module.training for module in model] == [True, False, True]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(data[0], x)
    assert torch.equal(data[1], y)


def test_modes_and_generator_are_put_back_after_an_error(model, data):
    model.train()
    before = torch.random.get_rng_state()
    with pytest.raises(RuntimeError):
        criteria.accuracy(model, (data[0][:, :, :3], data[1]))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(module.training for module in model.modules())


def test_embeddings_of_bounded_rows_are_put_back():
    model = nn.Sequential(nn.Embedding(5, 4, max_norm=0.1), nn.Flatten(), nn.Linear(8, 3))
    before = model[0].weight.detach().clone()
    criteria.accuracy(model, (torch.zeros(6, 2, dtype=torch.int64), torch.zeros(6).long()))
    assert torch.equal(model[0].weight, before)


def test_a_model_that_diverged_has_no_accuracy(model, data):
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="outputs: not all finite"):
        criteria.accuracy(model, data)


def test_data_that_cannot_be_measured_is_refused(model, data):
    x, y = data
    with pytest.raises(ValueError, match="data: empty"):
        criteria.accuracy(model, (x[:0], y[:0]))
    with pytest.raises(ValueError, match="50 inputs and 49 targets"):
        criteria.accuracy(model, (x, y[1:]))
    with pytest.raises(ValueError, match="batch_size: got 0"):
        criteria.accuracy(model, data, batch_size=0)
    with pytest.raises(TypeError, match=r"batch_size: got 2\.5"):
        criteria.accuracy(model, data, batch_size=2.5)
    items = [{"image": image, "class": label} for image, label in zip(x, y, strict=True)]
    for loader, message in (
        (TensorDataset(x, y, y), "got 3 parts, must be a pair"),
        (items, "a mapping with the entries image, class has no labels"),
    ):
        with pytest.raises(TypeError, match=f"data: {message}"):
            criteria.accuracy(model, DataLoader(loader, batch_size=4))
    for bad in ((x.tolist(), y), (x, y, y), "data"):
        with pytest.raises(TypeError, match=r"data: (got (3 parts|str)|inputs are list), must be"):
            criteria.accuracy(model, bad)
    items = [{"image": image, "label": label} for image, label in zip(x, y, strict=True)]
    with pytest.raises(TypeError, match="unexpected keyword argument 'image'"):
        criteria.accuracy(model, DataLoader(items, batch_size=4))


@pytest.mark.parametrize("measure", [criteria.evaluate, criteria.predict])
def test_classes_on_another_axis_are_refused(measure):
    model = nn.Sequential(nn.Unflatten(1, (4, 3)))
    x, y = torch.randn(5, 12, generator=generator()), torch.randint(3, (5, 4))
    with pytest.raises(ValueError, match=r"targets are \(5, 4\) where outputs are \(5, 4, 3\)"):
        measure(model, (x, y))
    turned = nn.Sequential(*model, Turned())
    assert measure(turned, (x, y)) is not None


class Turned(nn.Module):
    def forward(self, x):
        return x.movedim(-1, 1)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (torch.tensor([0, 3]), ValueError, r"labels from 0 to 3, must lie in 0 \.\.\. 2"),
        (torch.tensor([0, -100]), ValueError, "labels from -100 to 0"),
        (torch.tensor([0.0, 1.0]), TypeError, "targets are torch.float32"),
        (torch.tensor([[0], [1]]), ValueError, r"targets are \(2, 1\)"),
    ],
    ids=["too large", "ignored by PyTorch", "floating", "a further axis"],
)
def test_targets_that_are_no_class_indices_are_refused(model, data, labels, error, message):
    """PyTorch leaves out a label of -100, and would count its loss of 0 as an example's."""
    with pytest.raises(error, match=message):
        criteria.evaluate(model, (data[0][:2], labels))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_labels_of_any_integer_type_will_do(model, data, dtype):
    x, y = data
    assert criteria.evaluate(model, (x, y.to(dtype))) == criteria.evaluate(model, data)


def test_a_loss_of_a_whole_batch_is_refused(model, data):
    """Its mean over batches of different sizes is not that over the data."""
    with pytest.raises(ValueError, match=r"loss: returned shape \(\), must give one loss per"):
        criteria.robustness(model, data, Uniform(0.1), loss=F.cross_entropy)


def test_tokens_have_no_neighbours():
    model = nn.Sequential(nn.Embedding(9, 2), nn.Flatten())
    data = torch.randint(9, (4, 3)), torch.randint(6, (4,))
    assert criteria.accuracy(model, data) >= 0
    with pytest.raises(TypeError, match=r"inputs are torch\.int64; neighbours"):
        criteria.robustness(model, data, Uniform(0.1))
