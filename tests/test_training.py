"""What a training promises, whatever the method: where it may run, that it stops at a bad loss, what it draws."""

import pytest
import torch

from trust_exp import engine
from trust_exp.errors import UserError
from trust_exp.identity import run_id
from trust_exp.job import Job
from trust_exp.runs import Run, open_run

RESNET = ["method=standard", "model=cifar_resnet20", "model.depth=8", "model.mean=null", "model.std=null"]


@pytest.fixture
def trained(composed, tmp_path):
    """Trains and evaluates a run of given overrides, in a folder of a given name; returns the run."""

    def train(name, *overrides) -> Run:
        config = composed("size=smoke", "eval=[clean]", *overrides)
        job = Job(config, open_run(config, tmp_path / name, []), [])
        engine.execute_and_record(job)
        return job.run

    return train


def weights(run: Run) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run.weights, weights_only=True)["state_dict"]
    return state


def test_batch_norm_over_all_processes_is_refused_where_torch_has_none(composed, tmp_path):
    config = composed("size=smoke", "accelerator=ddp", "accelerator.kind=cpu", "accelerator.sync_batchnorm=true")
    with pytest.raises(UserError, match="sync_batchnorm=true needs GPUs for several processes"):
        engine.execute(Job(config, Run(tmp_path / "run"), []))


def test_batch_norm_over_one_process_changes_the_id_and_no_number(trained, composed):
    one, other = trained("one", *RESNET), trained("other", *RESNET, "accelerator.sync_batchnorm=true")
    for name, value in weights(one).items():
        assert torch.equal(weights(other)[name], value), name
    assert run_id(composed("accelerator.sync_batchnorm=true")) != run_id(composed())
    assert run_id(composed("accelerator.sync_batchnorm=false")) == run_id(composed())
