"""Batches that a language model would learn the wrong task from."""

import pytest
import torch
from torch import nn

import phiopt
from phiopt import OuterLoss, check, criteria
from tests.cases import CPU

TOKENS = torch.randint(1, 9, (4, 5), generator=torch.Generator().manual_seed(0))
LANGUAGE = {"input_ids": TOKENS, "labels": TOKENS}


class Tokens(nn.Module):
    """Logits of the next token, from the mean of the tokens up to this one; with ``peeks`` of all tokens."""

    def __init__(self, width, peeks=False):
        super().__init__()
        self.embed, self.head, self.peeks = nn.Embedding(9, width), nn.Linear(width, 9), peeks

    def forward(self, input_ids, attention_mask=None):
        hidden = self.embed(input_ids)
        if attention_mask is not None:
            hidden = hidden * attention_mask[..., None]
        whole = hidden.mean(1, keepdim=True) if self.peeks else hidden.cumsum(1) / 5
        return {"logits": self.head((hidden + whole).tanh())}


class Translator(Tokens):
    """A model with a decoder, which ``forward`` feeds with the inputs where nothing else is given."""

    def forward(self, input_ids, decoder_input_ids=None):
        return super().forward(input_ids if decoder_input_ids is None else decoder_input_ids)

    def prepare_decoder_input_ids_from_labels(self, labels):
        return labels.roll(1, 1)


def users(teacher, student, data):
    lambdas = (0.5, 0.5, 0.0, 0.0)
    return {
        "pose": lambda: phiopt.pose(teacher, student, lambdas, data),
        "accuracy": lambda: criteria.accuracy(teacher, data),
        "check": lambda: check(teacher, data, examples=2),
        "outer": lambda: OuterLoss(data, robust=0.0).of(student, 0),
    }


@pytest.mark.parametrize(
    ("name", "padding"),
    [
        ("pose", "right"),
        ("check", "none"),
        ("outer", "left"),
        *(("accuracy", padding) for padding in ("none", "right", "left")),
    ],
)
def test_a_model_that_sees_what_follows_is_refused(name, padding):
    shown = {"right": [1, 1, 1, 1, 0], "left": [0, 1, 1, 1, 1]}
    mask = {} if padding == "none" else {"attention_mask": torch.tensor([shown[padding]] * 4)}
    data = LANGUAGE | mask
    users(Tokens(4), Tokens(6), data)[name]()
    with pytest.raises(ValueError, match=r"data: labels are input_ids, .* sees the tokens"):
        users(Tokens(4, peeks=True), Tokens(6, peeks=True), data)[name]()


@pytest.mark.parametrize("name", ["pose", "accuracy", "check", "outer"])
def test_an_encoder_decoder_needs_the_inputs_of_its_decoder(name):
    models = Translator(4), Translator(6)
    with pytest.raises(ValueError, match=r"data: has the entries input_ids, must have decoder_inp"):
        users(*models, {"input_ids": TOKENS, "labels": TOKENS.flip(1)})[name]()
    whole = {"input_ids": TOKENS, "decoder_input_ids": TOKENS, "labels": TOKENS.flip(1)}
    users(*models, whole)[name]()


def test_a_loss_of_the_users_gets_labels_as_they_are():
    seen = []

    def loss(outputs, targets):
        seen.append(targets)
        return torch.nn.functional.cross_entropy(outputs.mT, targets, reduction="none").mean(1)

    models = Tokens(4, peeks=True), Tokens(6, peeks=True)
    problem = phiopt.pose(*models, (0.5, 0.5, 0.0, 0.0), LANGUAGE, loss=loss)
    assert torch.equal(problem.objective.data.example[1].to(CPU), TOKENS)
    assert all(-100 not in targets for targets in seen)


def test_several_targets_reach_a_loss_as_a_dictionary():
    kinds = set()

    def loss(outputs, targets):
        kinds.add((type(targets), tuple(targets)))
        logits = outputs.mean(1)
        return sum(
            torch.nn.functional.cross_entropy(logits, y, reduction="none") for y in targets.values()
        )

    data = {"input_ids": TOKENS}, {"first": TOKENS[:, 0], "last": TOKENS[:, -1]}
    models = Tokens(4), Tokens(6)
    options = {"loss": loss, "solver": phiopt.TorchOpt(steps=2), "throw": False}
    solution = phiopt.initialize(*models, (0.5, 0.3, 0.0, 0.2), data, **options)
    assert solution.terms["task"] > 0
    assert kinds == {(dict, ("first", "last"))}
    with pytest.raises(TypeError, match=r"targets are a mapping of first, last, .*give loss="):
        phiopt.pose(*models, (0.5, 0.5, 0.0, 0.0), data)
    with pytest.raises(TypeError, match="targets are a mapping of first, last"):
        criteria.accuracy(models[0], data)
    around = phiopt.Replacement(0.1)
    moved = phiopt.criteria.robustness(
        Tokens(4),
        data,
        around,
        loss=lambda z, y: torch.nn.functional.cross_entropy(
            z.mean(2), y["first"], reduction="none"
        ),
    )
    assert moved > 0
