"""What jobs that share a composition get is what Hydra composes for each."""

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from trust_exp.compose import check, register, run_name
from trust_exp.launch.loader import SweepLoader
from trust_exp.schema import CONF

JOBS = [
    ["seed=0"],
    ["seed=1"],
    ["method=gloro", "seed=1"],
    ["seed=1", "method=gloro"],
    ["method.epsilon=8/255", "size=smoke", "eval=[clean,certify]", "eval.certify.radii=[0.1,0.2]"],
    ["dataset=two_moons", "method.optimizer.lr=1e-3", "method.optimizer.lr=2e-3"],
    ["fit.epochs=null", "fit.steps=3", "model=conv_4c3f"],
    ["+experiments/cll/figure_4_4=cll_eps_0_1", "seed=3"],
    ["objective=[clean/accuracy]", "sweep='a b'", "accelerator=ddp", "accelerator.devices=3"],
    ["~fit.log_every", "seed=2"],
    ["++seed=4"],
    ["method.k_schedule={start:1,power:10}"],
]


@pytest.fixture(scope="module")
def hydra():
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield GlobalHydra.instance().hydra


@pytest.fixture(scope="module")
def master(hydra):
    return hydra.config_loader.load_configuration("config", [], run_mode=RunMode.MULTIRUN)


@pytest.mark.parametrize("overrides", JOBS, ids=" ".join)
def test_a_job_is_composed_as_hydra_does_it(hydra, master, overrides):
    plain = hydra.config_loader.load_sweep_config(master, list(overrides))
    loader = SweepLoader(hydra.config_loader)
    loader.load_sweep_config(master, [*overrides, "seed=7"])  # what another job changes stays with that job
    quick = loader.load_sweep_config(master, overrides)
    assert check(quick) == check(plain)
    assert run_name(quick) == run_name(plain)


def test_jobs_that_make_the_same_choices_share_a_composition(hydra, master, monkeypatch):
    loader, composed = SweepLoader(hydra.config_loader), []
    whole = hydra.config_loader.load_sweep_config
    monkeypatch.setattr(
        hydra.config_loader, "load_sweep_config", lambda config, given: composed.append(given) or whole(config, given)
    )
    for method in ("cll", "gloro"):
        for seed in range(4):
            loader.load_sweep_config(master, [f"method={method}", f"seed={seed}"])
    assert composed == [["method=cll"], ["method=gloro"]]


@pytest.mark.parametrize(
    "overrides", [["seeed=1"], ["method=cl"], ["seed"], ["method.epsilon.x=1"], ["+seed=1"]], ids=" ".join
)
def test_mistakes_are_told_as_hydra_tells_them(hydra, master, overrides):
    with pytest.raises(Exception) as plain:  # noqa: PT011 (whatever Hydra raises)
        hydra.config_loader.load_sweep_config(master, list(overrides))
    with pytest.raises(type(plain.value)) as quick:
        SweepLoader(hydra.config_loader).load_sweep_config(master, overrides)
    assert str(quick.value) == str(plain.value)


def test_everything_else_is_hydras(hydra):
    assert "cll" in SweepLoader(hydra.config_loader).get_group_options("method")
