"""Composition, checks and identity."""

import dataclasses
import re
from itertools import product

import pytest
from hydra._internal.hydra import Hydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from tests.chosen import finds_anomalies, method_for, normal_class_for, source_for
from trust_exp import choices, compose
from trust_exp.build import build
from trust_exp.errors import UserError
from trust_exp.identity import run_id
from trust_exp.schema import CONF, schemas

METHODS, DATASETS = (sorted(path.stem for path in (CONF / group).glob("*.yaml")) for group in ("method", "dataset"))
# Every data set, and in turn every method; the rest is for the slow tests.
SAMPLE = {(METHODS[place % len(METHODS)], dataset) for place, dataset in enumerate(DATASETS)}
PAIRS = [
    pytest.param(*pair, marks=() if pair in SAMPLE else pytest.mark.slow, id="-".join(pair))
    for pair in product(METHODS, DATASETS)
]
SIZES = ("full", "small", "smoke")


def task_of(dataset):
    return OmegaConf.load(CONF / "dataset" / f"{dataset}.yaml").get("task", "classification")


def test_the_sample_of_pairs_has_every_method():
    assert {method for method, _ in SAMPLE} == set(METHODS)


def usual_evals(method):
    """The evals of a method's own file, else of that of its task, that are there."""
    own = CONF / "eval" / "for" / f"{method}.yaml"
    task = "anomaly" if finds_anomalies(method) else "classification"
    file = OmegaConf.load(own if own.exists() else CONF / "eval" / "for_task" / f"{task}.yaml")
    named = {name for entry in file.defaults if entry != "_self_" for name in entry.values()}
    return {name for name in named if (CONF / "eval" / f"{name}.yaml").exists()}


@pytest.mark.parametrize(("method", "dataset"), PAIRS)
def test_every_pair_composes_or_says_what_is_missing(composed, method, dataset):
    own_model = choices.exists("model", f"for/{method}/{dataset}")  # else that of the run that it builds on
    source = [*([] if own_model else source_for(method)), *normal_class_for(method, dataset)]
    wanted_task = "anomaly" if finds_anomalies(method) else "classification"
    for_any = (
        "any" in getattr(choices.read_choice("method", method).schema, "tasks", ()) and task_of(dataset) == "anomaly"
    )
    if task_of(dataset) != wanted_task and not normal_class_for(method, dataset) and not for_any:
        with pytest.raises(UserError) as error:
            composed(f"method={method}", f"dataset={dataset}", *source)
        wanted = (
            rf"(method=\S+ needs|model=\S+ gives) (a class for each image|one normal class); dataset={dataset} has .*; "
            ".* that fit: .*"
        )
        assert re.fullmatch(wanted, str(error.value))
        return
    config = composed(f"method={method}", f"dataset={dataset}", *source)
    if task_of(dataset) == "anomaly" != wanted_task:  # a method for any task that gives no scores
        assert (config["eval"], set(config["left_out"])) == ({}, {"anomaly"})
        return
    assert (config["method"]["name"], config["dataset"]["name"]) == (method, dataset)
    usual, left_out = usual_evals(method), set(config.get("left_out", {}))
    assert set(config["eval"]) == usual - left_out
    plain = ("MlpConfig", "ConvNetConfig", "FrozenConfig", "TrainedConfig", "RawPixelsConfig")
    certified = config["model"]["_schema_"].rpartition(":")[2] in plain
    assert left_out == (set() if certified else usual & {"certify"})


@pytest.mark.slow
@pytest.mark.parametrize(("method", "size"), [(method, SIZES[place % 3]) for place, method in enumerate(METHODS)])
def test_every_method_composes_at_every_size(composed, method, size):
    given = (*source_for(method), *normal_class_for(method, "digits"))
    assert composed(f"method={method}", f"size={size}", *given)["size"] == size


def test_every_model_is_called_what_its_file_is_called(composed):
    """Methods and data sets are so among the pairs."""
    for path in (CONF / "model").glob("*.yaml"):
        extra = ["dataset=two_moons"] if "two_moons" in path.stem else []
        built_on = path.stem in ("frozen", "trained")
        extra += ["method=transfer", *source_for("transfer")] if built_on else method_for(path.stem)
        if path.stem not in ("timm", "none"):  # model.name says which of timm; none is no model
            assert composed(f"model={path.stem}", *extra)["model"]["name"] == path.stem


def test_recipes_and_models_of_the_thesis_apply_by_themselves(composed):
    tiny = composed("method=cll", "dataset=tiny_imagenet")
    assert (tiny["method"]["epsilon"], tiny["method"]["err_quantile"]) == (0.5, 0.01)
    assert (tiny["model"]["name"], tiny["fit"]["epochs"], tiny["dataset"]["batch_size"]) == ("conv_8c2f", 801, 256)
    cifar = composed("method=cll", "dataset=cifar10")
    assert (cifar["method"]["epsilon"], cifar["method"]["err_quantile"]) == (0.15, 0.3)
    assert cifar["model"]["name"] == "conv_4c3f"
    assert cifar["method"]["optimizer"]["milestones"] == [400 / 801, 600 / 801, 780 / 801]
    assert composed("method=cll", "dataset=cifar10", "model=conv_6c2f")["model"]["name"] == "conv_6c2f"


def test_a_fraction_is_a_number_everywhere(composed):
    config = composed("method.epsilon=8/255", "eval.certify.radii=[36/255,0.5]", "eval.autoattack.epsilon=1e-1/2")
    assert config["method"]["epsilon"] == 8 / 255
    assert config["eval"]["certify"]["radii"] == [36 / 255, 0.5]
    assert config["eval"]["autoattack"]["epsilon"] == 0.05
    assert run_id(config) == run_id(composed(f"method.epsilon={8 / 255!r}"))


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("method.epsilon=8/0", "method.epsilon divides by zero; got '8/0'"),
        ("method.epsilon=abc", "method.epsilon must be a number (8/255 is one); got 'abc'"),
        ("method.epsilon=-1", "method.epsilon must be greater than 0; got -1"),
        ("method.epsilon=true", "method.epsilon must be a number (8/255 is one); got True"),
        ("fit.epochs=2.5", "fit.epochs must be a whole number; got 2.5"),
        ("fit.epochs=0", "fit.epochs must be at least 1; got 0"),
        ("fit.steps=3", "give one of fit.epochs and fit.steps; got epochs=80 and steps=3"),
        ("force=maybe", "force must be true or false; got 'maybe'"),
        ("seed=-1", "seed must be at least 0; got -1"),
        ("mode=evaluate", "mode must be one of train, eval; got 'evaluate'; did you mean eval?"),
        ("run=abc", "run=abc names an earlier run; to evaluate it, add mode=eval"),
        ("eval.certify.radii=0.5", "eval.certify.radii must be a list such as [1,2]; got 0.5"),
        ("eval.certify.radii=[0.5,x]", "eval.certify.radii[1] must be a number (8/255 is one); got 'x'"),
        ("eval.certify.radii=[0.5,0.5001]", "must differ in their first three digits"),
        ("eval.certify.splits=[]", "eval.certify.splits must name one or more different splits; got []"),
        ("eval.certify.splits=[tests]", "eval.certify.splits must be one of train, val, test; got 'tests'"),
        ("eval.autoattack.norm=L1", "eval.autoattack.norm must be one of L2, Linf; got 'L1'"),
        ("method.optimizer=sgd", "method.optimizer must be a group of values; got 'sgd'"),
        ("method.optimizer.milestones=[0.9,0.1]", "method.optimizer.milestones must be fractions of the training"),
        ("accelerator.precision=fp8", "accelerator.precision must be one of 32-true, bf16-mixed, 16-mixed; got 'fp8'"),
        ("model.convs=[[1,2]]", "model.convs must hold [channels, kernel, stride, padding] each; got [[1, 2]]"),
        ("model.std=[1]", "give both model.mean and model.std, or neither"),
        ("method.p=2", "method.p must be in (0, 0.5); got 2. p is half of what the released code calls err_quantile"),
        ("method.p=0.1", "give one of method.p and method.err_quantile"),
        ("+method.epsilom=1", "the key 'method.epsilom' does not exist; did you mean method.epsilon?"),
    ],
)
def test_a_wrong_value_is_one_sentence(composed, override, sentence):
    with pytest.raises(UserError) as error:
        composed(override)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "override", ["paths.data=/x", "accelerator.devices=3", "logger=none", "eval=[clean]", "force=true"]
)
def test_what_does_not_change_the_weights_does_not_change_the_id(composed, override):
    assert run_id(composed(override)) == run_id(composed())


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "method.epsilon=0.3",
        "fit.epochs=3",
        "size=small",
        "dataset.batch_size=7",
        "dataset.augment.pad=1",
        "accelerator.precision=bf16-mixed",
        "model=conv_4c3f",
        "model.dense=[64]",
        "model._target_=trust_exp.models.nets.other",
    ],
)
def test_what_changes_the_weights_changes_the_id(composed, override):
    assert run_id(composed(override)) != run_id(composed())


def test_the_radius_of_an_attack_follows_its_norm_and_the_method(composed):
    assert composed()["eval"]["autoattack"]["epsilon"] == 0.5
    assert composed("method.epsilon=0.3")["eval"]["autoattack"]["epsilon"] == 0.3
    assert composed("eval.autoattack.norm=Linf")["eval"]["autoattack"]["epsilon"] == 8 / 255
    assert composed("method=standard")["eval"]["autoattack"]["epsilon"] == 36 / 255
    assert (
        composed("eval.autoattack.norm=Linf", "eval.autoattack.epsilon=2/255")["eval"]["autoattack"]["epsilon"]
        == 2 / 255
    )


def test_an_eval_that_a_recipe_tunes_but_nobody_chose_is_not_run(composed):
    assert set(composed("eval=[clean]")["eval"]) == {"clean"}


NOT_LIPSCHITZ = (
    "eval=certify needs layers with a known Lipschitz constant; model=resnet50 gives logits; models that fit: conv_2c2f"
)


def test_an_eval_that_does_not_fit_the_network_is_left_out_with_its_reason(composed):
    config = composed("method=sat", "dataset=flowers102")
    assert set(config["eval"]) == {"clean", "autoattack"}
    assert list(config["left_out"]) == ["certify"]
    assert config["left_out"]["certify"].startswith(NOT_LIPSCHITZ)
    assert "left_out" not in composed("method=sat", "dataset=flowers102", "eval=[clean]"), "nobody chose it"
    plain = composed("method=sat", "dataset=flowers102", "model=conv_4c3f")
    assert "certify" in plain["eval"]
    assert "left_out" not in plain


@pytest.mark.parametrize("asked", ["eval=[certify,clean]", "eval=[clean,certify]"])
def test_an_eval_that_is_asked_for_is_refused_where_it_cannot_run(composed, asked):
    with pytest.raises(UserError, match=rf"^{NOT_LIPSCHITZ}, .*; choose eval=\[clean\]$"):
        composed("method=sat", "dataset=flowers102", asked)
    assert set(composed("method=sat", "dataset=flowers102", "model=conv_4c3f", asked)["eval"]) == {"certify", "clean"}


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "cifar10plus1", "imagenet200"])
def test_ordinary_training_differs_from_adversarial_training_in_its_attack_alone(composed, dataset):
    plain, attacked = (composed(f"method={name}", f"dataset={dataset}") for name in ("standard", "sat"))
    for part in ("model", "dataset", "fit"):
        assert plain[part] == attacked[part]
    assert plain["method"]["optimizer"] == attacked["method"]["optimizer"]
    assert (plain["model"]["mean"] == [0.4914, 0.4822, 0.4465]) == dataset.startswith("cifar")


def test_all_schemas_have_a_docstring_of_their_own():
    for schema in schemas():
        assert dataclasses.is_dataclass(schema)
        assert not (schema.__doc__ or "").startswith(f"{schema.__name__}("), f"{schema.__name__} needs a docstring"


def test_nothing_but_known_packages_is_built():
    with pytest.raises(UserError, match="must be under one of"):
        build({"_target_": "os.system", "command": "true"})


def test_a_field_that_came_later_leaves_earlier_runs_their_id(composed):
    config = composed()
    without = {**config, "dataset": {key: value for key, value in config["dataset"].items() if key != "fraction"}}
    assert run_id(without) == run_id(config) == "44a94211f0"  # as it was before the field came
    assert run_id(composed("dataset.fraction=0.5")) != run_id(config)


def test_the_mode_of_hydra_is_read_from_the_overrides():
    """``Hydra.get_mode`` composes everything for it."""
    compose.register()
    assert Hydra.get_mode(None, "config", ["seed=0", "+hydra.mode=RUN", "hydra.mode=MULTIRUN"]) == RunMode.MULTIRUN
    assert Hydra.get_mode(None, "config", ["hydra.mode=BOTH"]) is Hydra.get_mode(None, "config", ["seed=0"]) is None


def test_a_second_schema_of_one_name_is_refused(monkeypatch):
    other = type("CllConfig", (), {"__module__": "mine"})
    monkeypatch.setattr(compose, "schemas", lambda: [*schemas(), other])
    with pytest.raises(UserError, match=r"two schemas are called CllConfig, in trust_exp.methods.lipschitz.* and mine"):
        compose._register_parts.__wrapped__()


def test_no_two_schemas_have_one_name():
    """conf/ names them without their module, so that the second would silently take the place of the first."""
    names = [schema.__name__ for schema in schemas()]
    assert len(names) == len(set(names))
