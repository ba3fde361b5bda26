import pytest
import torch
from torch import nn

import phiopt
from phiopt import Replacement, TorchOpt, criteria
from phiopt._inputs import Several
from phiopt.objective.around import drawn_around, no_neighbours, perturbed
from phiopt.objective.neighbourhood import Uniform
from tests.cases import generator

PAD = 0
TOKENS = (
    torch.tensor([3] * 60 + [7] * 30 + [9] * 10)
    .repeat(40)[torch.randperm(4000, generator=generator(1))]
    .view(40, 100)
)
TOKENS[:, -20:] = PAD


def replaced(delta, **options):
    around = Replacement(delta, **options)
    return around.perturb(TOKENS, around.draw(TOKENS, generator()))


def test_a_fraction_delta_is_drawn_and_the_tokens_keep_their_frequencies():
    kept = replaced(0.0, samples=3)
    assert kept.shape == (3, *TOKENS.shape)
    assert torch.equal(kept[2], TOKENS)
    whole = replaced(1.0, keep=(PAD,), samples=2)
    assert torch.equal(whole[0] == PAD, TOKENS == PAD)
    for token in (3, 7, 9):
        share = (whole == token).double().mean().item()
        assert share == pytest.approx((token == TOKENS).double().mean().item(), abs=0.02)
    assert not torch.equal(whole[0], whole[1])
    changed = (replaced(0.5, keep=(PAD,))[0] != TOKENS)[TOKENS != PAD].double().mean().item()
    own = sum((TOKENS[TOKENS != PAD] == token).double().mean().item() ** 2 for token in (3, 7, 9))
    assert changed == pytest.approx(0.5 * (1 - own), abs=0.03)


def test_one_draw_serves_every_delta():
    around = Replacement(0.2)
    draw = around.draw(TOKENS, generator())
    few, many = (Replacement(delta).perturb(TOKENS, draw)[0] for delta in (0.2, 0.6))
    assert bool(((few == TOKENS) | (few == many)).all())


def test_where_all_tokens_stay_nothing_is_drawn():
    same = Replacement(1.0, keep=[0, 3, 7, 9])
    assert torch.equal(same.perturb(TOKENS, same.draw(TOKENS, generator()))[0], TOKENS)


def test_of_several_inputs_the_main_one_changes():
    inputs = Several(named={"attention_mask": (TOKENS != PAD).long(), "input_ids": TOKENS})
    around = Replacement(0.5, samples=2)
    noisy = perturbed(around, inputs, drawn_around(around, inputs, generator())).named
    assert not torch.equal(noisy["input_ids"][0], TOKENS)
    assert torch.equal(noisy["attention_mask"][1], inputs.named["attention_mask"])


def test_tokens_and_floating_inputs_have_neighbourhoods_of_their_own():
    floating = torch.ones(2, 3)
    both = Several(named={"input_ids": TOKENS[:2], "pixel_values": floating})
    assert not no_neighbours(Uniform(0.1), both)
    assert not no_neighbours(Replacement(0.1), both)
    assert "phiopt.Replacement" in no_neighbours(Uniform(0.1), TOKENS)
    assert "token numbers, which are whole" in no_neighbours(Replacement(0.1), floating)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"delta": -0.1}, ValueError, r"delta: got -0.1, .* must lie in \[0, 1\]"),
        ({"delta": 1.1}, ValueError, r"delta: got 1.1, .* must lie in \[0, 1\]"),
        ({"delta": "0.1"}, TypeError, "delta: got"),
        ({"delta": torch.tensor(0.1, requires_grad=True)}, ValueError, "delta: .* x' jumps"),
        ({"delta": 0.1, "keep": "0"}, TypeError, "keep: got '0', must be a collection"),
        ({"delta": 0.1, "keep": (0.5,)}, TypeError, "keep: got 0.5"),
        ({"delta": 0.1, "samples": 0}, ValueError, "samples: got 0"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Replacement(**arguments)


class Reader(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.embed, self.head = nn.Embedding(10, width), nn.Linear(width, 3)

    def forward(self, input_ids):
        return self.head(self.embed(input_ids).mean(1).tanh())


@pytest.mark.parametrize("named", [False, True])
def test_the_noise_term_means_something_for_text(named):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher, student = Reader(4), Reader(8)
    labels = TOKENS[:, 0] % 3
    data = {"input_ids": TOKENS, "labels": labels} if named else (TOKENS, labels)
    around = Replacement(0.3, keep=(PAD,), samples=2)
    solution = phiopt.initialize(
        teacher,
        student,
        (0.2, 0.2, 0.6, 0.0),
        data,
        neighbourhood=around,
        start="zero-out",
        solver=TorchOpt(steps=8, check_every=4),
    )
    assert solution.terms["noise"] < solution.start_terms["noise"]
    measured = criteria.robustness(teacher, data, around)
    assert measured == pytest.approx(solution.start_terms["noise"], rel=0.1)
    with pytest.raises(TypeError, match=r"lambdas.noise is not 0; neighbours x' need floating"):
        phiopt.initialize(teacher, student, (0.2, 0.2, 0.6, 0.0), data)
