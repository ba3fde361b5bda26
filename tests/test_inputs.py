"""Several tensors as one batch: which entry is the main one, and what each operation does to all."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_map

from phiopt._given import inputs_of
from phiopt._inputs import (
    Several,
    apply_to,
    entries_of,
    flattened,
    joined,
    lifted,
    main_first,
    main_of,
    repeated,
)
from phiopt.objective import Uniform
from phiopt.objective.around import drawn_around, perturbed

IDS = torch.arange(6).view(3, 2)
PIXELS = torch.arange(12.0).view(3, 4)
MASK = torch.ones(3, 2)


def named(**entries):
    return Several(named=entries)


@pytest.mark.parametrize(
    ("inputs", "main", "around"),
    [
        (named(attention_mask=MASK, input_ids=IDS), "input_ids", None),
        (named(attention_mask=MASK, pixel_values=PIXELS), "pixel_values", "pixel_values"),
        (named(pixel_values=PIXELS, input_ids=IDS), "input_ids", "pixel_values"),
        (named(a=IDS, x=PIXELS), "x", "x"),
        (named(a=IDS, b=PIXELS), "b", "b"),
        (named(mask=MASK, a=IDS), "a", None),
        (named(a=IDS, b=IDS), "a", None),
        (Several((IDS, PIXELS)), "0", "1"),
        (Several((PIXELS, IDS)), "0", "0"),
    ],
)
def test_the_main_entry_and_that_of_neighbours(inputs, main, around):
    assert inputs.main == main
    assert inputs.around == around
    assert inputs.is_floating_point() == (around is not None)
    assert main_first(inputs)[0] is main_of(inputs) is inputs.entries[main]


def test_several_tensors_are_indexed_and_copied_as_one_is():
    inputs = Several((IDS,), {"x": PIXELS})
    assert len(inputs) == 3
    for index in (slice(1, 3), torch.tensor([2, 0]), slice(None)):
        part = inputs[index].entries
        assert torch.equal(part["0"], IDS[index])
        assert torch.equal(part["x"], PIXELS[index])
    copy = inputs.clone().entries
    assert torch.equal(copy["x"], PIXELS)
    assert copy["x"] is not PIXELS
    whole = joined([inputs[:1], inputs[1:]]).entries
    assert torch.equal(whole["0"], IDS)
    assert torch.equal(whole["x"], PIXELS)
    assert torch.equal(tree_map(lambda t: t + 1, inputs).named["x"], PIXELS + 1)


def test_neighbours_repeat_what_has_no_noise():
    inputs, around = named(input_ids=IDS, x=PIXELS), Uniform(0.5, samples=2)
    draw = drawn_around(around, inputs, torch.Generator())
    batch = flattened(perturbed(around, inputs, draw)).entries
    assert torch.equal(batch["x"], around.perturb(PIXELS, draw).flatten(0, 1))
    assert torch.equal(batch["input_ids"], torch.cat([IDS, IDS]))
    assert torch.equal(repeated(IDS, 2), torch.cat([IDS, IDS]))


def test_a_lift_acts_on_the_main_entry_alone():
    out = lifted(lambda x: 2 * x, named(attention_mask=MASK, pixel_values=PIXELS)).entries
    assert torch.equal(out["pixel_values"], 2 * PIXELS)
    assert out["attention_mask"] is MASK


class Sum(nn.Module):
    def forward(self, a, b, *, c):
        return a + 10 * b + 100 * c


def test_a_module_gets_them_by_position_and_by_name():
    one = torch.ones(2)
    assert torch.equal(apply_to(Sum(), Several((one, one), {"c": one})), 111 * one)
    assert torch.equal(apply_to(nn.Identity(), one), one)


def test_what_a_user_gives_becomes_tensors_and_stays_as_it_is():
    frozen = np.arange(6).reshape(3, 2)
    frozen.flags.writeable = False
    given = {"input_ids": frozen, "x": PIXELS.numpy(), "token_type_ids": [[0, 1]] * 3, "labels": 1}
    before = dict(given)
    inputs = inputs_of("inputs", given)
    assert given == before or list(given) == list(before)
    assert list(entries_of(inputs)) == ["input_ids", "x", "token_type_ids"]
    assert torch.equal(inputs.named["input_ids"], torch.from_numpy(frozen.copy()))
    assert torch.equal(inputs.named["x"], PIXELS)
    assert isinstance(inputs_of("inputs", PIXELS.numpy()), torch.Tensor)
    assert list(entries_of(inputs_of("inputs", (IDS, PIXELS.numpy())))) == ["0", "1"]
    turned = PIXELS.numpy()[::-1]
    assert torch.equal(inputs_of("inputs", turned), PIXELS.flip(0))
    other = PIXELS.numpy().astype(">f4")
    assert torch.equal(inputs_of("inputs", other), PIXELS)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"text": ["a", "b"]}, TypeError, "entry 'text' of the inputs is a list that does not"),
        ({"x": [[1], [1, 2]]}, TypeError, r"entry 'x' .*padding=True"),
        (
            {"x": None},
            TypeError,
            "entry 'x' of the inputs is NoneType, must be a Tensor or an array",
        ),
        ({"x": torch.tensor(1.0)}, ValueError, "entry 'x' of the inputs is a single number"),
        ({"x": np.array(["a"])}, TypeError, "entry 'x' .*dtype <U1, must be numbers"),
        ({}, TypeError, r"a mapping of \[\], must have one entry or more"),
        ({"labels": IDS}, TypeError, "must have one entry or more"),
        ({1: IDS}, TypeError, r"a mapping of \[1\], must have one entry or more, with names"),
        ((), TypeError, r"inputs: got \(\), must be a Tensor"),
        ((IDS, "x"), TypeError, "inputs: got a tuple of Tensor, str, must be a Tensor"),
        (3, TypeError, "inputs: got 3, must be a Tensor, an array"),
    ],
)
def test_what_is_no_batch_is_refused_by_its_entry(given, error, message):
    with pytest.raises(error, match=message):
        inputs_of("inputs", given)
