"""ψ: what the lifts make of a batch, and where they say it sits."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from phiopt import lift as lifts

IMAGES = torch.arange(1.0, 33.0).reshape(2, 1, 4, 4)


@pytest.mark.parametrize(
    "lift",
    [
        lifts.Identity(),
        lifts.Pad((6, 7)),
        lifts.Pad((6, 7), align="center"),
        lifts.Channels(3, "place", at=1),
        lifts.Compose(lifts.Channels(3, "place", at=2), lifts.Pad((5, 8), align="center")),
    ],
)
def test_a_value_sits_where_the_lift_says(lift):
    lifted, shape = lift(IMAGES), tuple(IMAGES.shape[1:])
    assert tuple(lifted.shape[1:]) == lift.shape(shape)
    c, y, x = (torch.from_numpy(p) for p in lift.index_maps(shape))
    assert torch.equal(lifted[:, c][:, :, y][:, :, :, x], IMAGES)
    assert lifted.sum() == IMAGES.sum()  # zeros elsewhere


def test_repeated_channels_hold_the_image_in_each():
    lifted = lifts.Channels(3)(IMAGES)
    assert all(torch.equal(lifted[:, i : i + 1], IMAGES) for i in range(3))
    assert lifts.Channels(3).index_maps((1, 4, 4))[0].tolist() == [0]


@given(st.integers(1, 9), st.integers(0, 9))
def test_resizing_places_are_in_order_and_distinct(old, more):
    places = lifts.nearest_indices(old, old + more)
    assert (places >= 0).all()
    assert (places < old + more).all()
    assert (places[1:] > places[:-1]).all()


def test_resize_interpolates():
    ramp = torch.linspace(0, 1, 4).reshape(1, 1, 1, 4).expand(1, 1, 4, 4)
    lifted = lifts.Resize((8, 8))(ramp)
    assert lifted.shape == (1, 1, 8, 8)
    assert torch.allclose(lifted[0, 0, 0, 1:7].diff(), torch.full((5,), 1 / 6), atol=1e-6)


@pytest.mark.parametrize(
    ("teacher", "student", "expected"),
    [
        ((4,), (4,), lifts.Identity()),
        ((4,), (7,), lifts.Pad((7,))),
        ((1, 8, 8), (3, 8, 8), lifts.Channels(3)),
        ((3, 8, 8), (4, 8, 8), lifts.Channels(4, "place")),
        ((1, 28, 28), (1, 32, 32), lifts.Resize((32, 32))),
    ],
)
def test_the_default_lift(teacher, student, expected):
    assert lifts.infer(teacher, student) == expected


def test_the_default_lift_of_other_channels_and_sizes():
    assert lifts.infer((1, 28, 28), (3, 32, 32)).lifts == (
        lifts.Channels(3),
        lifts.Resize((32, 32)),
    )


@pytest.mark.parametrize(
    ("teacher", "student", "choice"),
    [((1, 28), (1, 32), "Resize((32,))"), ((1, 4, 4, 4), (1, 8, 8, 8), "Pad((8, 8, 8))")],
)
def test_shapes_that_leave_a_choice_are_refused_with_the_list(teacher, student, choice):
    with pytest.raises(ValueError, match="leaves a choice") as error:
        lifts.infer(teacher, student)
    assert choice in str(error.value)


@pytest.mark.parametrize("at", [(2, 1, 0), (3, 0, 1), [0, 2, 4]])
def test_channels_sit_where_they_are_placed(at):
    x = torch.randn(2, 3, 4, 4)
    lift = lifts.Channels(5, "place", at=at)
    lifted = lift(x)
    assert lift.index_maps((3, 4, 4))[0].tolist() == list(at)
    assert torch.equal(lifted[:, list(at)], x)
    assert float(lifted.abs().sum()) == pytest.approx(float(x.abs().sum()), rel=1e-6)


@pytest.mark.parametrize("ids", [(3, 0, 1), [3, 0, 1], torch.tensor([3, 0, 1])])
def test_tokens_are_renumbered(ids):
    lift = lifts.Tokens(ids)
    assert lift == lifts.Tokens((3, 0, 1))
    assert lift(torch.tensor([[0, 2], [1, 1]])).tolist() == [[3, 1], [0, 0]]
    with pytest.raises(
        ValueError, match="must be one for each token; the input has tokens from 0 to 3"
    ):
        lift(torch.tensor([0, 3]))


def test_shapes_that_shrink_are_refused():
    with pytest.raises(ValueError, match="cannot be inferred"):
        lifts.infer((3, 8, 8), (1, 8, 8))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lifts.Pad((2, 2))(IMAGES), "size="),
        (lambda: lifts.Pad(()), r"size: got \(\), must be"),
        (lambda: lifts.Pad((8, 8), align="left"), "align: got 'left', must be one of"),
        (lambda: lifts.Channels(0), "channels: got 0, must"),
        (lambda: lifts.Channels(3, "spread"), "mode: got 'spread', must"),
        (lambda: lifts.Channels(2, "place", at=2)(IMAGES), "cannot hold"),
        (
            lambda: lifts.Channels(5, "place", at=(0, 1))(IMAGES),
            "must be as many as the 1 channels",
        ),
        (lambda: lifts.Channels(5, "place", at=(1, 1)), "at: got .*must be a tuple of different"),
        (lambda: lifts.Channels(2, "place", at=(2,))(IMAGES), "cannot hold"),
        (lambda: lifts.Tokens(()), "ids: got .*must be a tuple of different"),
        (lambda: lifts.Tokens((1, 1)), "ids: got .*must be a tuple of different"),
        (lambda: lifts.Resize((2, 2))(IMAGES), "size="),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_compose_takes_lifts_that_know_their_places():
    with pytest.raises(TypeError, match=r"lifts\[0\]"):
        lifts.Compose(lambda x: x)
