"""Recipes and sizes: each recipe is for the models that it names, and what a run takes by default belongs together."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chosen import SMALL_NETWORK, normal_class_for, source_for
from trust_exp import choices
from trust_exp.compose import model_for
from trust_exp.contract import misfit, part
from trust_exp.data import sources
from trust_exp.errors import UserError
from trust_exp.recipes import models_of, recipe_for, recipe_line, recipes, recipes_of, settings_at_size
from trust_exp.schema import CONF

METHODS, DATASETS = choices.names("method"), choices.names("dataset")


def fits(method: str, dataset: str) -> bool:
    """Whether a pair makes a run with the model that it has by default."""
    model = choices.read_choice("model", usual_model(method, dataset))
    learner, data = choices.read_choice("method", method), choices.read_choice("dataset", dataset)
    normal = {"normal_class": 0} if normal_class_for(method, dataset) else {}
    return not misfit(
        part("method", method, learner.schema, {}),
        part("model", model.name, model.schema, {}),
        part("dataset", dataset, None, {**data.values, **normal}),
        has=("trained",),
    )


def usual_model(method: str, dataset: str) -> str:
    return model_for(method, dataset, "anomaly" if normal_class_for(method, dataset) else "own")


PAIRS = [(method, dataset) for method in METHODS for dataset in DATASETS if fits(method, dataset)]


# --- recipes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", recipes())
def test_a_recipe_is_for_models_that_there_are(recipe):
    method, _, *model = recipe.split("/")
    assert method in METHODS
    assert set(models_of(recipe)) <= set(choices.names("model"))
    if model:
        assert models_of(recipe) == tuple(model), "it is called after its model"


def test_no_two_recipes_of_a_pair_are_for_one_model():
    for pair in {tuple(recipe.split("/")[:2]) for recipe in recipes()}:
        models = [model for recipe in recipes_of(*pair) for model in models_of(recipe)]
        assert len(set(models)) == len(models), pair


def test_a_recipe_that_names_no_model_is_refused(tmp_path, monkeypatch):
    (tmp_path / "recipe" / "cll").mkdir(parents=True)
    (tmp_path / "recipe" / "cll" / "moths.yaml").write_text("# @package _global_\nrecipe: mine\n")
    monkeypatch.setattr(choices, "CONF", tmp_path)
    with pytest.raises(
        UserError, match=r"conf/recipe/cll/moths.yaml must name the models .* recipe_for: \[conv_4c3f\]"
    ):
        models_of("cll/moths")


def test_a_recipe_applies_to_its_models_alone(composed):
    for model in ("conv_4c3f", "conv_6c2f"):
        config = composed("method=cll", "dataset=cifar10", f"model={model}")
        assert (config["recipe"], config["fit"]["epochs"]) == ("Losch 2024, table B.4", 801)
        assert model in config["recipe_for"]
    other = composed("method=cll", "dataset=cifar10", "model=conv_8c2f")
    assert (other["recipe"], other["recipe_for"], other["fit"]["epochs"]) == (None, None, 20)
    assert recipe_line(other) == "none; cll/cifar10 is for conv_4c3f, conv_4c3f_released, conv_6c2f"
    assert recipe_line(composed("method=lmt")).startswith("none for this pair")
    assert recipe_line({"method": None, "dataset": {"name": "cifar10"}}) == "unknown"


def test_a_further_model_of_a_pair_has_a_recipe_of_its_own(composed):
    small = composed("method=standard", "dataset=cifar10", "model=conv_2c2f")
    large = composed("method=standard", "dataset=cifar10")
    assert large["model"]["name"] == "preact_resnet18"
    assert (small["method"]["optimizer"]["name"], large["method"]["optimizer"]["name"]) == ("adamw", "sgd")
    assert recipe_line({**large, "recipe": None}) == "none; standard/cifar10 is for preact_resnet18, conv_2c2f"


def test_a_model_by_another_name_has_the_recipe_of_the_one_that_it_stands_for(composed):
    assert recipe_for("cll", "cifar10", "for/any/cifar10") == "cll/cifar10"
    assert recipe_for("sat", "digits", "for/sat/digits") == "sat/digits"
    timm = composed("method=standard", "dataset=cub200_protopnet", "model=timm", "model.name=resnet34")
    assert timm["recipe"] == "ProtoNMF (2023), sec. 4.1"


def test_a_run_says_that_no_recipe_is_for_its_model(command_line):
    given = ("method=cll", "dataset=digits", "model=conv_4c3f", "size=smoke", "fit.steps=1", "eval=[clean]")
    done = command_line.here(*given)
    assert done.returncode in (None, 0), done.stderr
    assert "recipe: none; cll/digits is for conv_2c2f" in done.stderr
    assert "recipe:  none; cll/digits is for conv_2c2f" in done.stdout


# --- sizes ----------------------------------------------------------------------------------------------------------


def test_values_for_a_size_go_by_the_choice_then_by_its_schemas():
    assert settings_at_size("model", "conv_8c2f", "smoke") == "smoke/conv_8c2f"
    assert settings_at_size("model", "preact_resnet18", "smoke") == "smoke/DeepNetConfig"
    assert settings_at_size("model", "for/sat/caltech256", "smoke") == "smoke/DeepNetConfig"
    assert settings_at_size("method", "sat", "smoke") == "smoke/AdversarialConfig"
    assert settings_at_size("dataset", "caltech101", "smoke") == "smoke/StreamConfig"
    for group, choice in (("model", "conv_2c2f"), ("dataset", "digits"), ("method", "cll"), ("model", "misspelt")):
        assert settings_at_size(group, choice, "smoke") == "none"


def test_a_size_wins_over_the_recipe_and_the_command_line_over_the_size(composed):
    recipe, smoke, asked = (
        composed("method=cll", "dataset=digits", *more)["eval"]
        for more in ((), ("size=smoke",), ("size=smoke", "eval.certify.tightness_pairs=9"))
    )
    assert recipe["certify"]["tightness_pairs"] == 500
    assert recipe["certify"]["gap_steps"] == 500
    assert (smoke["certify"]["tightness_pairs"], smoke["certify"]["gap_steps"]) == (8, 5)
    assert (smoke["autoattack"]["version"], smoke["autoattack"]["samples"]) == ("fast", 10)
    assert smoke["certify"]["radii"] == recipe["certify"]["radii"]
    assert asked["certify"]["tightness_pairs"] == 9


def test_an_eval_that_is_not_chosen_has_no_values_for_a_size(composed):
    assert set(composed("size=smoke", "eval=[clean]")["eval"]) == {"clean"}
    assert composed("size=smoke", "eval=none")["eval"] == {}


def test_no_file_of_a_size_names_an_eval():
    for path in (*(CONF / "size").glob("*.yaml"), CONF / "config.yaml"):
        assert not any(f"{name}:" in path.read_text() for name in choices.names("eval") if name != "none"), path


def test_large_images_are_small_at_smoke_size(composed):
    assert composed("method=sat", "dataset=caltech101")["dataset"]["image_size"] == [224, 224]
    assert composed("method=sat", "dataset=caltech101", "size=smoke")["dataset"]["image_size"] == [64, 64]


def test_deep_networks_take_few_small_steps_and_ordinary_training_one_pass(composed):
    """A ranking by difficulty needs samples of all classes."""
    attacked = composed("method=sat", "dataset=cifar10", "size=smoke")
    assert (attacked["fit"]["steps"], attacked["dataset"]["batch_size"]) == (2, 4)
    assert attacked["method"]["stopping"] is None
    for name, samples in (("cifar100", 100), ("imagenet200", 200)):
        ordinary = composed("method=standard", f"dataset={name}", "size=smoke")
        assert ordinary["dataset"]["limit_train"] == samples
        assert ordinary["fit"]["steps"] * ordinary["dataset"]["batch_size"] == samples


# --- what the project offers ----------------------------------------------------------------------------------------


def test_every_method_has_data_that_fit():
    assert {method for method, _ in PAIRS} == set(METHODS)
    assert ("cll", "camvid") not in PAIRS


def default_model(method: str, dataset: str) -> str:
    return choices.read_choice("model", usual_model(method, dataset)).name


@pytest.mark.parametrize(("method", "dataset"), PAIRS)
def test_a_recipe_of_a_pair_is_for_the_model_that_the_pair_has_by_default(method, dataset):
    found = recipe_for(method, dataset, usual_model(method, dataset))
    assert found == (f"{method}/{dataset}" if recipes_of(method, dataset) else "none")
    if found != "none":
        assert default_model(method, dataset) in models_of(found)


def test_every_recipe_is_of_a_pair_that_makes_a_run():
    assert {tuple(recipe.split("/")[:2]) for recipe in recipes()} <= set(PAIRS)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_run_with_a_recipe_composes_with_it(method, composed):
    for recipe in [recipe for recipe in recipes() if recipe.split("/")[0] == method]:
        _, dataset, *further = recipe.split("/")
        own_model = further or choices.exists("model", f"for/{method}/{dataset}")  # else that of the run it builds on
        given = [f"model={model}" for model in further] + ([] if own_model else source_for(method))
        config = composed(f"method={method}", f"dataset={dataset}", *normal_class_for(method, dataset), *given)
        assert config["recipe"]
        assert (further[0] if further else default_model(method, dataset)) in config["recipe_for"]
        assert_certified_where_attacked(config)


# --- radii ----------------------------------------------------------------------------------------------------------


def assert_certified_where_attacked(config: dict) -> None:
    """A certificate and an attack at one radius: only such a pair of numbers can be compared."""
    certify, attack = (config["eval"].get(name) for name in ("certify", "autoattack"))
    if certify and attack and attack["norm"] == "L2":
        assert any(math.isclose(radius, attack["epsilon"], rel_tol=1e-12) for radius in certify["radii"]), config


USUAL = [36 / 255, 72 / 255, 108 / 255]


@pytest.mark.parametrize(
    ("given", "radii"),
    [
        (["dataset=digits"], [0.25, 0.5, 0.75, 1.0]),
        (["dataset=digits", "method.epsilon=36/255"], [36 / 255, 0.25, 0.5, 0.75, 1.0]),
        (["dataset=digits", "eval.autoattack.epsilon=0.3"], [0.25, 0.3, 0.5, 0.75, 1.0]),
        (["dataset=digits", "eval=[certify]"], [0.25, 0.5, 0.75, 1.0]),
        (["dataset=digits", "eval=[certify]", "eval.certify.radii=[0.1]"], [0.1]),
        (["method=lmt", "dataset=cifar10"], [36 / 255, 0.25, 72 / 255, 108 / 255]),
        (["method=lmt", "dataset=cifar10", "method.epsilon=0.1411"], [0.1411, 72 / 255, 108 / 255]),
        (["method=lmt", "dataset=cifar10", "eval.autoattack.norm=Linf"], [36 / 255, 0.25, 72 / 255, 108 / 255]),
        (["method=standard", "dataset=digits"], USUAL),
        (["method=standard", "dataset=mnist"], [0.1, 0.5, 1.0, 1.5]),
        (["method=standard", "dataset=mnist", "eval=[certify]"], [0.1, 0.5, 1.0, 1.5]),
    ],
)
def test_certified_radii_are_the_usual_ones_and_that_of_the_attack(composed, given, radii):
    config = composed(*given)
    assert config["eval"]["certify"]["radii"] == radii
    if "eval.certify.radii=[0.1]" not in given:
        assert_certified_where_attacked(config)


EMBEDDED = ("digits", "two_moons")
LAYOUTS = {  # data sets that the shared samples give, and the folder that unpack_data.py makes of them
    "mnist": "mnist",
    "fashion_mnist": "fashion_mnist",
    "cifar10": "cifar10",
    "cifar100": "cifar100",
    "cifar10plus1": None,  # of the two before
    "tiny_imagenet": "tiny-imagenet-200",
    "caltech101": "caltech101",
}
OF_IMAGES = ("cae", "cae_ocsvm", "deep_svdd", "grad2vae", "inception_cae", "patchcore", "protopnet", "vae")


POINTS_REFUSED = [pair for pair in PAIRS if pair[1] == "two_moons" and pair[0] in OF_IMAGES]


@pytest.fixture(scope="module")
def root(shared_data, tmp_path_factory) -> Path:
    """A data folder with the shared samples."""
    raw, root = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("data")
    script = shared_data.parent / "tools" / "unpack_data.py"
    names = [name for name, folder in LAYOUTS.items() if folder]
    subprocess.run([sys.executable, script, "--to", raw, *names], check=True)
    for name in names:
        sources.import_dataset(name, raw / LAYOUTS[name], root)
    return root


@pytest.fixture(scope="module")
def smoke(command_line_in, tmp_path_factory):
    """Run a pair at smoke size; its result. What runs build on is trained once."""
    line = command_line_in(tmp_path_factory.mktemp("runs"))

    def smoke(method: str, dataset: str, *more: str) -> None:
        network = "" if dataset == "two_moons" else SMALL_NETWORK
        source = source_for(method, network, dataset)
        given = (*source, *normal_class_for(method, dataset), *more)
        done = line.here(f"method={method}", f"dataset={dataset}", "size=smoke", *given)
        assert done.returncode in (None, 0), done.stderr
        path = done.stdout.splitlines()[-1].removeprefix("result:").strip()
        result = json.loads(Path(path).read_text())
        assert result["status"] == "done"
        assert result["metrics"]
        assert all(math.isfinite(value) for value in result["metrics"].values() if value is not None)

    return smoke


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "dataset"), [pair for pair in PAIRS if pair[1] in EMBEDDED and pair not in POINTS_REFUSED]
)
def test_a_pair_of_the_embedded_data_runs_through(method, dataset, smoke):
    smoke(method, dataset)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "dataset"), POINTS_REFUSED)
def test_points_are_refused_in_one_sentence_where_images_are_needed(method, dataset, command_line):
    given = (*source_for(method, "", dataset), *normal_class_for(method, dataset))
    done = command_line.here(f"method={method}", f"dataset={dataset}", "size=smoke", *given)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert re.search(r"error: .*(needs images|a single place|must be even|does not exist)", done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "dataset"), [pair for pair in PAIRS if pair[1] in LAYOUTS])
def test_a_pair_of_the_shared_data_runs_through(method, dataset, smoke, root):
    several = ["dataset.normal_class=[0,1,2,3]"] if normal_class_for(method, dataset) else []  # a class has 7 images
    smoke(method, dataset, f"paths.data={root}", *several)
