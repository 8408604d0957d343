"""Methods of one-class anomaly detection on a few handwritten digits, as several tests need them."""

import lightning.pytorch as L

from trust_exp.build import build
from trust_exp.networks import make_network
from trust_exp.rng import drawing_from

FEW = ("dataset.classes=[0,1,8]", "dataset.batch_size=32", "dataset.hold_out=0.1")


def untrained(composed, *overrides):
    """The method and its data."""
    config = composed("dataset=digits", *FEW, *overrides)
    data = build(config["dataset"], name="digits", root="unused", seed=0)
    with drawing_from(0, "method"):
        method = build(config["method"], model=make_network(config, data.info), info=data.info, log_every=1)
    return method, data


def trained(composed, quiet_trainer, *overrides, epochs=2, resume=None, **trainer):
    """The method after some epochs, or from a checkpoint to their end."""
    method, data = untrained(composed, *overrides)
    quiet_trainer(max_epochs=epochs, **trainer).fit(
        method, datamodule=method.training_data(data), ckpt_path=resume, weights_only=True
    )
    return method


class SavedAt(L.Callback):
    """A checkpoint after an optimiser step."""

    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
