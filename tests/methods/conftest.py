"""A network that several methods explain or train on."""

import pytest

from tests.shapes import check_shapes
from trust_exp.engine import execute_and_record
from trust_exp.job import Job
from trust_exp.runs import Run, open_run
from trust_exp.schema import ROOT

for core in sorted((ROOT / "trust_exp/methods").glob("*/core.py")):
    check_shapes(f"trust_exp.methods.{core.parent.name}.core")


@pytest.fixture(scope="session")
def source(composed_in, tmp_path_factory) -> Run:
    """A small ResNet, which keeps places up to its head, trained for two epochs of digits."""
    folder = tmp_path_factory.mktemp("source")
    network = ["model=cifar_resnet20", "model.depth=8", "model.mean=null", "model.std=null"]
    config = composed_in(folder, "method=standard", "dataset=digits", *network, "fit.epochs=2", "eval=[clean]")
    job = Job(config, open_run(config, folder / "standard-digits-0123456789", []), [])
    execute_and_record(job)
    return job.run
