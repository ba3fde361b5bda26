"""Models of transformers with the batches that they are trained on, against wrappers of one tensor."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import phiopt
from phiopt import OuterLoss, TorchOpt, check, criteria, learn
from phiopt.bilevel.search import Mirror
from phiopt.objective.loss import cross_entropy_along

transformers = pytest.importorskip("transformers", reason="needs phiopt[families]")

LAMBDAS = (0.4, 0.4, 0.0, 0.2)
QUICK = TorchOpt(steps=2, batch_size=6, check_every=2)
TOKENS = torch.randint(1, 11, (6, 5), generator=torch.Generator().manual_seed(0))
MASK = (torch.arange(5) < 4).long().expand(6, 5).contiguous()
COMMON = {"vocab_size": 11, "attn_implementation": "eager"}


def made(model, config, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return getattr(transformers, model)(config).double().eval()


def gpt2(width):
    size = {"n_embd": width, "n_layer": 1, "n_head": 2, "n_positions": 8}
    end = {"bos_token_id": 0, "eos_token_id": 0, "use_cache": False}
    return made("GPT2LMHeadModel", transformers.GPT2Config(**COMMON, **size, **end), width)


def bert(model, width):
    size = {"hidden_size": width, "intermediate_size": 2 * width, "max_position_embeddings": 8}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_labels": 3}
    return made(model, transformers.BertConfig(**COMMON, **size, **heads), width)


def t5(width):
    size = {"d_model": width, "d_ff": 2 * width, "d_kv": width // 2, "num_layers": 1}
    rest = {"num_heads": 2, "decoder_start_token_id": 0, "use_cache": False}
    config = transformers.T5Config(vocab_size=11, **size, **rest)
    return made("T5ForConditionalGeneration", config, width)


def causal():
    return {
        "input_ids": TOKENS,
        "attention_mask": MASK,
        "labels": TOKENS.masked_fill(MASK == 0, -100),
    }


def masked():
    chosen = torch.tensor([False, True, False, True, False]).expand(6, 5)
    return {
        "input_ids": TOKENS.masked_fill(chosen, 0),
        "attention_mask": MASK,
        "labels": TOKENS.masked_fill(~chosen, -100),
    }


def classified():
    return {"input_ids": TOKENS, "attention_mask": MASK, "labels": TOKENS[:, 0] % 3}


def translated():
    labels = TOKENS.flip(1)[:, :3].clone()
    labels[:, 2] = -100
    before = torch.cat([torch.zeros(6, 1).long(), labels[:, :2]], 1)
    return {
        "input_ids": TOKENS,
        "attention_mask": MASK,
        "decoder_input_ids": before,
        "labels": labels,
    }


KINDS = {
    "causal": (gpt2, causal),
    "classifier": (lambda width: bert("BertForSequenceClassification", width), classified),
    "masked": (lambda width: bert("BertForMaskedLM", width), masked),
    "encoder-decoder": (t5, translated),
}
SOME = [
    pytest.param(kind, marks=[] if kind == "causal" else pytest.mark.slow, id=kind)
    for kind in KINDS
]


class Joined(nn.Module):
    """The same model of one tensor: its inputs, joined along the tokens."""

    def __init__(self, model, inputs):
        super().__init__()
        self.model, self.names = model, list(inputs)
        self.sizes = [x.shape[1] for x in inputs.values()]

    def forward(self, joined):
        parts = joined.split(self.sizes, 1)
        return self.model(**dict(zip(self.names, parts, strict=True))).logits


def one_tensor(batch, moved):
    """Inputs, and data for their wrapper: the labels are moved where the model's own loss moves them."""
    inputs = {name: x for name, x in batch.items() if name != "labels"}
    labels = batch["labels"]
    if moved:
        labels = torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], -100)], 1)
    return inputs, (torch.cat(list(inputs.values()), 1), labels)


def loss_of_tokens(outputs, targets):
    """The mean over the positions that count."""
    if targets.dim() == 1:
        return cross_entropy(outputs, targets, reduction="none")
    losses = cross_entropy(outputs.mT, targets, reduction="none", ignore_index=-100)
    return losses.sum(1) / (targets != -100).sum(1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_default_loss_is_that_of_the_model(kind):
    model, batch = KINDS[kind][0](8), KINDS[kind][1]()
    keys = list(batch)
    with torch.no_grad():
        own = model(**batch)
    _, (_, labels) = one_tensor(batch, kind == "causal")
    counts = labels != -100
    exact = cross_entropy(own.logits[counts], labels[counts]).item()
    assert exact == pytest.approx(own.loss.item(), rel=1e-6)  # a causal model's is float32
    measured = criteria.cross_entropy(model, batch, batch_size=4)
    assert measured == pytest.approx(exact, rel=1e-12)
    assert list(batch) == keys
    right = (own.logits.argmax(-1) == labels)[counts]
    assert criteria.accuracy(model, batch) == pytest.approx(right.double().mean().item())
    assert len(criteria.predict(model, batch)) == 6


@pytest.mark.parametrize("kind", SOME)
def test_a_solve_is_that_of_a_wrapper_of_one_tensor(kind):
    build, batch = KINDS[kind][0], KINDS[kind][1]()
    teacher, student = build(8), build(16)
    inputs, data = one_tensor(batch, kind == "causal")
    options = {"start": "zero-out", "solver": QUICK, "throw": False}
    solution = phiopt.initialize(teacher, student, LAMBDAS, batch, **options)
    with torch.no_grad():
        loss = teacher(**batch).loss.item()
    assert solution.start_terms["task"] == pytest.approx(loss, rel=1e-6)
    grown = phiopt.grow(teacher, student, "zero-out", map=solution.map, inputs=batch, verify=True)
    assert grown.verification.exact
    wrapped = [Joined(model, inputs) for model in (teacher, student)]
    same = phiopt.initialize(*wrapped, LAMBDAS, data, loss=loss_of_tokens, **options)
    assert solution.objective == pytest.approx(same.objective, rel=1e-10)
    for name, value in solution.params.items():
        assert torch.allclose(value, same.params[f"model.{name}"], rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_map_is_that_of_a_wrapper_of_one_tensor(kind):
    build, batch = KINDS[kind][0], KINDS[kind][1]()
    teacher, student = build(8), build(16)
    inputs, (joined, _) = one_tensor(batch, False)
    growth = phiopt.GrowthMap.between(teacher, student, inputs=batch)
    wrapped = [Joined(model, inputs) for model in (teacher, student)]
    same = phiopt.GrowthMap.between(*wrapped, inputs=joined)
    assert not growth.inexact_reasons
    mask, other = growth.mask(), same.mask()
    assert {f"model.{name}" for name in mask} == set(other)
    assert all(torch.equal(value, other[f"model.{name}"]) for name, value in mask.items())
    assert growth.example(1).named["input_ids"].shape == (8, 5)


def collated(items):
    """A batch as the collators of transformers make it: padded, of a class that is no dict."""
    longest = max(len(ids) for ids, _ in items)
    rows = [[*ids, *[0] * (longest - len(ids))] for ids, _ in items]
    ids = torch.tensor(rows)
    labels = torch.tensor([label for _, label in items])
    return transformers.BatchEncoding(
        {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}
    )


TEXTS = [(TOKENS[i, : 2 + i % 4].tolist(), i % 3) for i in range(6)]


def test_padded_batches_of_different_lengths_are_measured_and_solved_on():
    build, _ = KINDS["classifier"]
    teacher, student = build(8), build(16)
    loader = DataLoader(TEXTS, batch_size=2, collate_fn=collated)
    losses = []
    with torch.no_grad():
        for ids, label in TEXTS:
            logits = teacher(input_ids=torch.tensor([ids])).logits
            losses.append(cross_entropy(logits, torch.tensor([label])).item())
    assert criteria.cross_entropy(teacher, loader) == pytest.approx(sum(losses) / 6, rel=1e-10)
    solution = phiopt.initialize(
        teacher, student, (0.5, 0.5, 0.0, 0.0), loader, solver=QUICK, throw=False
    )
    assert solution.terms["task"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_points_are_solved_at_once_as_one_by_one(kind):
    build, batch = KINDS[kind][0], KINDS[kind][1]()
    points = (0.5, 0.5, 0.0, 0.0), (0.9, 0.1, 0.0, 0.0)
    problem = phiopt.pose(build(8), build(16), points[0], batch)
    outcomes = problem.solve_many(torch.tensor(points).double(), solver=QUICK)
    for point, outcome in zip(points, outcomes, strict=True):
        alone = problem.solve(point, solver=QUICK, throw=False)
        assert outcome.objective == pytest.approx(alone.objective, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_learn_and_check_take_the_same_batches(kind):
    build, batch = KINDS[kind][0], KINDS[kind][1]()
    teacher, student = build(8), build(16)
    learned = learn(
        teacher,
        student,
        batch,
        OuterLoss(batch, robust=0.0),
        lambdas=(0.5, 0.5, 0.0, 0.0),
        solver=QUICK,
        search=Mirror(budget=2),
    )
    measured = criteria.cross_entropy(learned.solution.student, batch)
    assert learned.outer == pytest.approx(measured, rel=1e-6)
    assert check(teacher, batch).layers


def test_the_default_loss_has_the_mean_of_an_examples_counted_positions():
    outputs = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1))
    targets = torch.tensor([[1, 2, -100, 3], [0, -100, -100, -100], [-100] * 4])
    losses = cross_entropy_along(2)(outputs, targets)
    assert losses[0] == pytest.approx(
        cross_entropy(outputs[0, [0, 1, 3]], targets[0, [0, 1, 3]]).item()
    )
    assert losses[1] == pytest.approx(cross_entropy(outputs[1, :1], targets[1, :1]).item())
    assert losses[2] == 0
