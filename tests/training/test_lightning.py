"""A part of a LightningModule grows in the midst of a fit by Lightning's own Trainer."""

import logging

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.cases import mlp, randn

lightning = pytest.importorskip("lightning", reason="needs phiopt[lightning]")

from phiopt.training.lightning import GrowCallback  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:lightning.*")


class Fit(lightning.LightningModule):
    def __init__(self, model):
        super().__init__()
        self.model, self.losses, self.rates = model, [], []

    def training_step(self, batch, _):
        loss = nn.functional.cross_entropy(self.model(batch[0]), batch[1])
        self.losses.append(float(loss.detach()))
        self.rates.append(self.optimizers().optimizer.param_groups[0]["lr"])
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def fitted(tmp_path, *callbacks, steps=6):
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    module = Fit(mlp(4, 3, 2, seed=1).float())
    data = TensorDataset(randn(16, 4).float(), torch.arange(16) % 2)
    trainer = lightning.Trainer(
        max_steps=steps, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=list(callbacks), default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, DataLoader(data, batch_size=4))
    return module, trainer


def test_a_part_grows_and_the_fit_goes_on(tmp_path):
    larger = mlp(4, 6, 2, seed=2).float()
    callback = GrowCallback(larger, at=3, warmup=2)
    module, trainer = fitted(tmp_path, callback)
    plain, _ = fitted(tmp_path)
    assert module.model[0].weight.shape == (6, 4)
    assert callback.map is not None
    # The loss of the step after growth is that of the small model: the function is kept.
    assert module.losses[:4] == pytest.approx(plain.losses[:4], abs=1e-5)
    # A step of Lightning runs the model inside the optimiser's, where rates rise; the scheduler does not see it.
    rising = [1, 1, 1, 1 / 3, 2 / 3, 1]
    assert module.rates == pytest.approx([f * r for f, r in zip(rising, plain.rates, strict=True)])
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01 * 0.5**6)
    state = trainer.optimizers[0].state[module.model[0].weight]
    assert state["exp_avg"].shape == (6, 4)
    assert float(state["step"]) == 6


def test_what_cannot_grow_is_named(tmp_path):
    larger = mlp(4, 6, 2, seed=2).float()
    with pytest.raises(ValueError, match="part: the LightningModule has no module 'net'"):
        fitted(tmp_path, GrowCallback(larger, at=1, part="net"))
    with pytest.raises(ValueError, match="at: got 0"):
        GrowCallback(larger, at=0)
