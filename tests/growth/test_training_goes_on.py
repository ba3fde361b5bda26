"""A model of timm or transformers grows in the middle of its training: the loss is continuous, and the optimiser's
state, the statistics of batch norms and moving averages of the weights go on.
"""

from copy import deepcopy

import pytest
import torch
from torch.nn.functional import cross_entropy

from phiopt import carry_optimizer, grow
from phiopt.growth import GrowthMap

timm = pytest.importorskip("timm", reason="needs phiopt[families]")
transformers = pytest.importorskip("transformers", reason="needs phiopt[families]")
pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate")

VIT = {"img_size": 32, "patch_size": 8, "num_classes": 5}
IMAGES = {
    "resnet": (
        lambda: timm.create_model("resnet18", channels=(8, 16, 16, 32), num_classes=5),
        lambda: timm.create_model("resnet34", channels=(8, 16, 24, 48), num_classes=5),
    ),
    "vit": (
        lambda: timm.create_model(
            "vit_tiny_patch16_224", embed_dim=16, num_heads=2, depth=2, **VIT
        ),
        lambda: timm.create_model(
            "vit_tiny_patch16_224", embed_dim=32, num_heads=4, depth=3, **VIT
        ),
    ),
}


def images(number):
    source = torch.Generator().manual_seed(number)
    return torch.randn(8, 3, 32, 32, generator=source), torch.randint(5, (8,), generator=source)


def step(model, average, optimizer, number):
    x, y = images(number)
    optimizer.zero_grad()
    loss = cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    average.update(model)
    return float(loss.detach())


def losses(model, number):
    """In training and in evaluation mode. The model stays as it is."""
    x, y = images(number)
    with torch.no_grad():
        return [
            float(cross_entropy(deepcopy(model).train(training)(x), y))
            for training in (True, False)
        ]


@pytest.mark.parametrize("kind", IMAGES)
def test_a_plain_loop_goes_on(kind):
    torch.manual_seed(0)
    small, large = IMAGES[kind]
    teacher = small()
    average = timm.utils.ModelEmaV3(teacher, decay=0.9)
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=1e-3)
    for number in range(3):
        step(teacher, average, optimizer, number)

    student = large()
    growth = GrowthMap.between(teacher, student, inputs=images(0)[0])
    assert growth.inexact_reasons == ()
    grown = grow(teacher, student, "zero-out", map=growth, seed=1).train()
    # The same fill and seed: the averages of new coordinates start at their values.
    averaged = timm.utils.ModelEmaV3(grown, decay=0.9)
    averaged.module = grow(average.module, student, "zero-out", map=growth, seed=1).eval()
    carried = carry_optimizer(optimizer, growth, teacher, grown)

    assert losses(grown, 3) == pytest.approx(losses(teacher, 3), abs=1e-5)
    assert losses(averaged.module, 3) == pytest.approx(losses(average.module, 3), abs=1e-5)
    # The step after growth: the loss from which it starts, and then the same statistics of the old channels.
    expected, buffers = losses(teacher, 3)[0], dict(grown.named_buffers())
    assert step(grown, averaged, carried, 3) == pytest.approx(expected, abs=1e-5)
    step(teacher, average, optimizer, 3)
    for name, value in teacher.named_buffers():
        new = growth.extract(
            {growth.placements[name].student: buffers[growth.placements[name].student]}
        )
        torch.testing.assert_close(new[name], value, rtol=1e-4, atol=1e-5)
    for _ in range(4):
        step(grown, averaged, carried, 3)
    assert losses(grown, 3)[0] < expected - 0.01


TEXT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
BERT = dict(
    vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
    max_position_embeddings=16, num_labels=3, **TEXT,
)  # fmt: skip
GPT2 = dict(
    vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=16, resid_pdrop=0.0, embd_pdrop=0.0,
    attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
)  # fmt: skip
LANGUAGE = {
    "bert": ("BertForSequenceClassification", "BertConfig", BERT, {"intermediate_size": 64}),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT2, {"n_layer": 3, "n_inner": 96}),
}


def model_of(kind, **more):
    model, config, base, _ = LANGUAGE[kind]
    return getattr(transformers, model)(getattr(transformers, config)(**base | more))


def examples(kind, count=32):
    source = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, 50, (count, 8), generator=source)
    targets = torch.randint(3, (count,), generator=source) if kind == "bert" else tokens
    return [{"input_ids": x, "labels": y} for x, y in zip(tokens, targets, strict=True)]


def trainer(model, folder, data, optimizer=None, schedule=None):
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), max_steps=4, per_device_train_batch_size=8, learning_rate=1e-3,
        weight_decay=0.1, logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True,
        use_cpu=True, seed=0,
    )  # fmt: skip
    return transformers.Trainer(
        model, arguments, train_dataset=data, optimizers=(optimizer, schedule)
    )


def loss_of(model, data):
    batch = {key: torch.stack([row[key] for row in data[:8]]) for key in data[0]}
    with torch.no_grad():
        return float(deepcopy(model).eval()(**batch).loss)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", LANGUAGE)
def test_transformers_trainer_goes_on(kind, tmp_path):
    torch.manual_seed(0)
    data = examples(kind)
    teacher, student = model_of(kind), model_of(kind, **LANGUAGE[kind][3])
    first = trainer(teacher, tmp_path / "first", data)
    first.train()

    tokens = torch.stack([row["input_ids"] for row in data[:2]])
    growth = GrowthMap.between(teacher, student, inputs=tokens)
    assert growth.inexact_reasons == ()
    grown = grow(teacher, student, "zero-out", map=growth)
    assert loss_of(grown, data) == pytest.approx(loss_of(teacher, data), abs=1e-5)

    carried = carry_optimizer(first.optimizer, growth, teacher, grown)
    moments = [name for name, p in teacher.named_parameters() if name in growth.placements]
    for name in moments:
        old = first.optimizer.state[dict(teacher.named_parameters())[name]]
        place = growth.placements[name].student
        new = carried.state[dict(grown.named_parameters())[place]]
        assert float(new["step"]) == float(old["step"]) == 4
        torch.testing.assert_close(growth.extract({place: new["exp_avg"]})[name], old["exp_avg"])
    second = trainer(grown, tmp_path / "second", data, carried, constant(carried))
    second.train()
    logged = [row["loss"] for row in second.state.log_history if "loss" in row]
    assert len(logged) == 4
    assert all(0 < loss < 10 for loss in logged)


def constant(optimizer):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
