"""The measures beside the paper's, against known answers."""

import colorsys

import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import nn

from experiments.data import Examples
from experiments.measures import (
    SEVERITIES,
    calibration_error,
    corruption,
    corruption_scores,
    fgsm,
    others,
    steps_to,
)
from experiments.train import Point
from phiopt import criteria


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(count=6, channels=3, size=12):
    return torch.rand(count, channels, size, size, generator=generator(), dtype=torch.float64)


def corrupted(family, severity, x, **bounds):
    made = corruption(family, severity, **bounds)
    return made.perturb(x, made.draw(x, generator(1)))[0]


def linear(seed=0, classes=3):
    layer = nn.Linear(16, classes, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(classes, 16, generator=generator(seed)))
        layer.bias.zero_()
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), layer)


def test_noise_has_its_deviation_and_is_clipped():
    grey = torch.full((50, 1, 20, 20), 0.5, dtype=torch.float64)
    for severity, c in enumerate(SEVERITIES["gaussian noise"], start=1):
        noisy = corrupted("gaussian noise", severity, grey)
        assert noisy.std().item() == pytest.approx(c, rel=0.02)
    assert corrupted("gaussian noise", 5, torch.ones_like(grey)).max() == 1


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_blur_is_scipys(severity):
    x = images()
    c = SEVERITIES["gaussian blur"][severity - 1]
    # "mirror" is reflection without the border pixel.
    expected = gaussian_filter(x.numpy(), c, axes=(2, 3), mode="mirror", truncate=4.0)
    blurred = corrupted("gaussian blur", severity, x)
    torch.testing.assert_close(blurred, torch.from_numpy(expected), atol=1e-7, rtol=0)


def test_blur_reaches_no_further_than_a_small_image():
    flat = torch.full((2, 1, 3, 12), 0.4, dtype=torch.float64)
    torch.testing.assert_close(corrupted("gaussian blur", 5, flat), flat)


def test_brightness_adds_to_the_value_of_each_pixels_colour():
    x = images(2, size=3)
    x[0, :, 0, 0] = 0
    bright = corrupted("brightness", 5, x)
    for n in range(2):
        for i in range(3):
            for j in range(3):
                hue, saturation, value = colorsys.rgb_to_hsv(*x[n, :, i, j].tolist())
                expected = colorsys.hsv_to_rgb(hue, saturation, min(value + 0.3, 1))
                assert bright[n, :, i, j].tolist() == pytest.approx(expected)


def test_brightness_of_grey_images_is_added():
    x = images(channels=1)
    torch.testing.assert_close(corrupted("brightness", 2, x), (x + 0.1).clamp(max=1))


def test_contrast_shrinks_to_the_mean_of_each_channel():
    x = images()
    flat = corrupted("contrast", 5, x)
    torch.testing.assert_close(flat.mean((2, 3)), x.mean((2, 3)))
    torch.testing.assert_close(flat.std((2, 3)), 0.15 * x.std((2, 3)))


@pytest.mark.parametrize("family", SEVERITIES)
def test_corruptions_follow_the_range_of_the_inputs(family):
    x = images()
    scaled = corrupted(family, 4, 5 * x - 2, low=-2.0, high=3.0)
    torch.testing.assert_close((scaled + 2) / 5, corrupted(family, 4, x))


@pytest.mark.parametrize("family", SEVERITIES)
def test_severities_grow(family):
    x = images()
    distances = [(corrupted(family, s, x) - x).norm() for s in range(1, 6)]
    assert distances == sorted(distances)


def test_scores_are_those_of_each_corruption():
    x = images(20, 1, 4)
    data = Examples(x, torch.randint(3, (20,), generator=generator()))
    scores = corruption_scores(linear(), data)
    assert scores.keys() == SEVERITIES.keys()
    contrast = Examples(corrupted("contrast", 3, x), data.y)
    assert scores["contrast"][2] == pytest.approx(criteria.evaluate(linear(), contrast))
    assert all(len(values) == 5 for values in scores.values())


def test_a_record_holds_means_over_severities():
    data = Examples(images(20, 1, 4), torch.randint(3, (20,), generator=generator()))
    actual = others(linear(), data)
    blurred = [score.accuracy for score in corruption_scores(linear(), data)["gaussian blur"]]
    assert actual["gaussian blur"] == pytest.approx(sum(blurred) / 5)
    assert actual["fgsm"] == criteria.accuracy(linear(), fgsm(linear(), data, 0.01))
    assert actual["calibration_error"] == calibration_error(linear(), data)
    wide = Examples(5 * data.x - 2, data.y)
    attacked = fgsm(linear(), wide, 0.05, low=-2.0, high=3.0)
    assert others(linear(), wide, low=-2.0, high=3.0)["fgsm"] == criteria.accuracy(
        linear(), attacked
    )


def test_wrong_corruptions_are_refused():
    with pytest.raises(ValueError, match="family: got 'fog', must be one of gaussian noise, "):
        corruption("fog", 1)
    with pytest.raises(ValueError, match="severity: got 6, must be 1, 2, 3, 4 or 5"):
        corruption("contrast", 6)
    with pytest.raises(ValueError, match=r"low, high: got 1\.0 and 1\.0"):
        corruption("contrast", 1, low=1.0)
    with pytest.raises(ValueError, match=r"inputs: of shape \(2, 3\), must be images of 4 axes"):
        corrupted("contrast", 1, torch.rand(2, 3))


def test_fgsm_steps_along_the_sign_of_the_gradient():
    model, x = linear(), images(7, 1, 4)
    y = torch.randint(3, (7,), generator=generator())
    model.train()
    attacked = fgsm(model, Examples(x, y), 0.1, batch_size=3)
    # For a linear model ∂l/∂x = Wᵀ (p - e_y).
    weight = model[2].weight.detach()
    p = (x.flatten(1) @ weight.T).softmax(1) - F.one_hot(y, 3)
    expected = (x + 0.1 * (p @ weight).sign().view_as(x)).clamp(0, 1)
    assert torch.equal(attacked.x, expected)
    assert torch.equal(attacked.y, y)
    assert model.training
    assert all(value.grad is None and value.requires_grad for value in model.parameters())


def test_fgsm_lowers_accuracy_and_epsilon_zero_changes_nothing():
    model, x = linear(), images(200, 1, 4)
    data = Examples(x, model.eval()(x).argmax(1))
    assert torch.equal(fgsm(model, data, 0.0).x, x)
    accuracies = [criteria.accuracy(model, fgsm(model, data, e)) for e in (0.0, 0.05, 0.2)]
    assert accuracies[0] == 1 > accuracies[1] > accuracies[2]
    wide = fgsm(model, data, 0.05, low=-9.0, high=9.0).x
    assert (wide - x).abs().amax().item() == pytest.approx(0.05)


@pytest.mark.parametrize("epsilon", [-0.1, float("nan"), float("inf")])
def test_fgsm_refuses_other_steps(epsilon):
    with pytest.raises(ValueError, match=r"epsilon: got .*, must be at least 0 and finite"):
        fgsm(linear(), Examples(images(2, 1, 4), torch.tensor([0, 1])), epsilon)


def test_fgsm_of_a_diverged_model_is_an_error():
    model = linear()
    with torch.no_grad():
        model[2].weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="gradients: not all finite"):
        fgsm(model, Examples(images(2, 1, 4), torch.tensor([0, 1])), 0.1)


class Answers(nn.Module):
    """Logits that are the logarithm of the input, in float64 as the parameter."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x):
        return x.log()


def test_calibration_error_of_known_confidences():
    # Confidence .9 four times, right three times; .6 twice, right never: 4/6 · .15 + 2/6 · .6.
    p = torch.tensor([[0.9, 0.1]] * 4 + [[0.4, 0.6]] * 2, dtype=torch.float64)
    y = torch.tensor([0, 0, 0, 1, 0, 0])
    assert calibration_error(Answers(), Examples(p, y)) == pytest.approx(0.1 + 0.2)
    # In one bin the signs cancel: accuracy 3/6 against a mean confidence of .8.
    assert calibration_error(Answers(), Examples(p, y), bins=1) == pytest.approx(0.3)
    with pytest.raises(ValueError, match="bins: got 0, must be at least 1"):
        calibration_error(Answers(), Examples(p, y), bins=0)


def test_a_calibrated_model_has_no_error_and_a_sure_one_its_error_rate():
    half = torch.full((4, 2), 0.5, dtype=torch.float64)
    assert calibration_error(Answers(), Examples(half, torch.tensor([0, 1, 0, 1]))) == 0
    sure = torch.tensor([[1.0, 1e-300]] * 4, dtype=torch.float64)
    assert calibration_error(Answers(), Examples(sure, torch.tensor([0, 1, 0, 0]))) == 0.25


def test_bins_are_of_equal_width():
    # .79 lies in the fourth of five bins, .81 in the fifth: the errors do not cancel.
    p = torch.tensor([[0.79, 0.21], [0.81, 0.19]], dtype=torch.float64)
    data = Examples(p, torch.tensor([0, 1]))
    assert calibration_error(Answers(), data, bins=5) == pytest.approx((0.21 + 0.81) / 2)
    assert calibration_error(Answers(), data, bins=4) == pytest.approx((0.81 - 0.21) / 2)


def test_steps_to_an_accuracy():
    curve = [Point(0, 0.1, 2.0), Point(10, 0.5, 1.0), Point(20, 0.4, 1.2), Point(30, 0.7, 0.8)]
    assert steps_to(curve, 0.5) == 10
    assert steps_to(curve, 0.55) == 30
    assert steps_to(curve, 0.1) == 0
    assert steps_to(curve, 0.9) is None
