"""A language model grows in the midst of a training by transformers' own Trainer."""

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="needs phiopt[families]")
pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate")

from phiopt.training.transformers import GrowCallback  # noqa: E402

SMALL = dict(
    vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
    max_position_embeddings=16, num_labels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip


def bert(**changes):
    config = transformers.BertConfig(**SMALL | changes)
    return transformers.BertForSequenceClassification(config)


def examples(count=32):
    source = torch.Generator().manual_seed(0)
    tokens = torch.randint(50, (count, 8), generator=source)
    return [{"input_ids": row, "labels": int(row[0]) % 3} for row in tokens]


def trained(tmp_path, *callbacks, resume=None, model=None, steps=6, save=0):
    torch.manual_seed(0)
    model = model or bert()
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=steps, per_device_train_batch_size=4, learning_rate=1e-2, logging_steps=1,
        save_strategy="steps" if save else "no", save_steps=save or 500, report_to=[], disable_tqdm=True, use_cpu=True,
        seed=0, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model, arguments, train_dataset=examples(), callbacks=list(callbacks)
    )
    trainer.train(resume_from_checkpoint=resume)
    logged = [row for row in trainer.state.log_history if "loss" in row]
    return trainer, [row["loss"] for row in logged], [row["learning_rate"] for row in logged]


INPUTS = {"input_ids": torch.zeros(2, 8, dtype=torch.long)}


def test_a_model_grows_and_the_training_goes_on(tmp_path, capsys):
    callback = GrowCallback(bert(intermediate_size=64), at=3, warmup=2, inputs=INPUTS)
    trainer, losses, rates = trained(tmp_path / "grown", callback, save=5)
    _, plain, plain_rates = trained(tmp_path / "plain")
    weight = trainer.model.bert.encoder.layer[0].intermediate.dense.weight
    assert weight.shape == (64, 16)
    assert trainer.model.config.intermediate_size == 64
    assert losses[:4] == pytest.approx(plain[:4], abs=1e-4)
    assert losses[5] != pytest.approx(plain[5], abs=1e-6)
    assert rates == pytest.approx(plain_rates)
    state = trainer.optimizer.state[weight]
    assert state["exp_avg"].shape == (64, 16)
    assert float(state["step"]) == 6
    # A checkpoint after growth goes on with the larger model, and the callback does nothing.
    again = GrowCallback(bert(intermediate_size=64), at=3, warmup=2, inputs=INPUTS)
    checkpoint = str(tmp_path / "grown" / "checkpoint-5")
    larger = bert(intermediate_size=64)
    _, resumed, _ = trained(tmp_path / "grown", again, resume=checkpoint, model=larger)
    assert again.map is None
    assert resumed[-1] == pytest.approx(losses[-1], abs=0.05)
