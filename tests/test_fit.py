"""Do data, model, method and evals fit? Each mismatch is one sentence that names what would, before anything starts."""

import pytest
import yaml
from hydra import compose

from hydra_plugins.trust_exp import searchpath
from trust_exp import contract
from trust_exp.commands.list import list_choices
from trust_exp.compose import Composer, composing, with_task
from trust_exp.contract import Part, in_order, misfit, misfit_of_eval
from trust_exp.errors import UserError
from trust_exp.job import described_jobs
from trust_exp.tasks import task_of

CLASSES, PIXELS, BOXES = ("classification",), ("segmentation",), ("detection",)


def part(text: str, tasks: tuple[str, ...] = CLASSES, needs: str = "", gives: str = "") -> Part:
    group, name = text.split("=")
    return Part(group, name, tasks, tuple(needs.split()), tuple(gives.split()))


MADE_UP = {
    str(each): each
    for each in (
        part("dataset=digits"),
        part("dataset=camvid", PIXELS),
        part("dataset=squares", BOXES),
        part("model=conv", gives="logits lipschitz"),
        part("model=timm", gives="logits"),
        part("model=pspnet", PIXELS, gives="logits"),
        part("model=none", ()),
        part("method=cll", needs="logits lipschitz"),
        part("method=standard", needs="logits"),
        part("method=protopnet", needs="logits trained", gives="patches"),
        part("method=segmenter", PIXELS, needs="logits"),
        part("method=autoencoder", gives="network scores"),
        part("method=alarm", ("anomaly",)),
        part("method=either", (*CLASSES, *PIXELS), needs="logits"),
        part("method=given", ("any",), needs="trained"),
        part("eval=clean", needs="logits"),
        part("eval=certify", needs="logits lipschitz"),
        part("eval=patches", needs="patches"),
        part("eval=swaps", needs="logits patches"),
        part("eval=novelty", needs="scores"),
        part("eval=maps", needs="maps"),
        part("eval=pixels", PIXELS, needs="logits"),
    )
}

TRAINED = "trained weights: source=<a run>, checkpoint=<a file of weights> or model.pretrained=true"
RUNS = [
    (
        "method=cll model=pspnet dataset=camvid",
        "method=cll needs a class for each image; dataset=camvid has a class for each pixel; "
        "data sets that fit: digits",
    ),
    (
        "method=segmenter model=conv dataset=squares",
        "method=segmenter needs a class for each pixel; dataset=squares has boxes; data sets that fit: camvid",
    ),
    (
        "method=either model=conv dataset=squares",
        "method=either needs a class for each image or a class for each pixel; dataset=squares has boxes; "
        "data sets that fit: digits, camvid",
    ),
    (
        "method=alarm model=none dataset=digits",
        "method=alarm needs one normal class: dataset.normal_class=3, or =each for a model of each class",
    ),
    (
        "method=given model=timm dataset=camvid trained",
        "model=timm gives a class for each image; dataset=camvid has a class for each pixel; models that fit: pspnet",
    ),
    (
        "method=given model=timm dataset=squares trained",
        "model=timm gives a class for each image; dataset=squares has boxes; models that fit: none yet",
    ),
    (
        "method=cll model=pspnet dataset=digits",
        "model=pspnet gives a class for each pixel; dataset=digits has a class for each image; models that fit: conv",
    ),
    (
        "method=cll model=timm dataset=digits",
        "method=cll needs layers with a known Lipschitz constant; model=timm gives logits; models that fit: conv",
    ),
    ("method=given model=timm dataset=digits", f"method=given needs {TRAINED}"),
    ("method=protopnet model=conv dataset=digits", f"method=protopnet needs {TRAINED}"),
    (
        "method=standard model=none dataset=digits",
        "model=none gives nothing; dataset=digits has a class for each image; models that fit: conv, timm",
    ),
    (
        "method=autoencoder model=conv dataset=digits",
        "method=autoencoder brings its own network; leave out model=conv",
    ),
    ("method=autoencoder model=none dataset=digits", ""),
    ("method=cll model=conv dataset=digits", ""),
    ("method=given model=pspnet dataset=camvid trained", ""),
    ("method=either model=pspnet dataset=camvid", ""),
]

EVALS = [
    (
        "eval=clean method=segmenter model=pspnet dataset=camvid",
        "eval=clean needs a class for each image; dataset=camvid has a class for each pixel; evals that fit: pixels",
    ),
    (
        "eval=clean method=given model=pspnet dataset=squares",
        "eval=clean needs a class for each image; dataset=squares has boxes; evals that fit: none yet",
    ),
    (
        "eval=certify method=standard model=timm dataset=digits",
        "eval=certify needs layers with a known Lipschitz constant; model=timm gives logits; models that fit: conv",
    ),
    (
        "eval=patches method=standard model=conv dataset=digits",
        "eval=patches needs patches; method=standard gives none; methods that fit: protopnet",
    ),
    (
        "eval=swaps method=standard model=conv dataset=digits",
        "eval=swaps needs patches; method=standard gives none; methods that fit: protopnet",
    ),
    (
        "eval=maps method=standard model=timm dataset=digits",
        "eval=maps needs maps; model=timm gives logits; models that fit: none yet",
    ),
    (
        "eval=novelty method=standard model=timm dataset=digits",
        "eval=novelty needs scores; method=standard gives none; methods that fit: autoencoder",
    ),
    (
        "eval=certify method=autoencoder model=none dataset=digits",
        "eval=certify needs logits and layers with a known Lipschitz constant; "
        "method=autoencoder gives network, scores; methods that fit: cll, standard, protopnet, either, given",
    ),
    ("eval=novelty method=autoencoder model=none dataset=digits", ""),
    ("eval=swaps method=protopnet model=timm dataset=digits", ""),
    ("eval=pixels method=segmenter model=pspnet dataset=camvid", ""),
]


@pytest.fixture
def made_up(monkeypatch):
    """A house of made-up parts; the parts that a text names, by their groups."""
    whole = {
        group: tuple(each for each in MADE_UP.values() if each.group == group)
        for group in ("dataset", "model", "method", "eval")
    }
    monkeypatch.setattr(contract, "offered", whole.__getitem__)
    return lambda text: {each.group: each for each in (MADE_UP[word] for word in text.split() if word in MADE_UP)}


@pytest.mark.parametrize(("text", "sentence"), RUNS, ids=[text for text, _ in RUNS])
def test_what_makes_no_run_is_one_sentence_that_names_what_would(made_up, text, sentence):
    parts = made_up(text)
    has = {"trained"} if text.endswith("trained") else set()
    assert misfit(parts["method"], parts["model"], parts["dataset"], has) == sentence


@pytest.mark.parametrize(("text", "sentence"), EVALS, ids=[text for text, _ in EVALS])
def test_what_cannot_be_asked_is_one_sentence_that_names_what_fits(made_up, text, sentence):
    parts = made_up(text)
    assert misfit_of_eval(parts["eval"], parts["method"], parts["model"], parts["dataset"]) == sentence


NAMING = [text for text, sentence in RUNS if " that fit: " in sentence and not sentence.endswith("none yet")]


@pytest.mark.parametrize("text", NAMING)
def test_what_a_sentence_names_is_not_refused_for_the_same_reason(made_up, text):
    parts = made_up(text)
    has = {"trained"} if text.endswith("trained") else set()
    sentence = misfit(parts["method"], parts["model"], parts["dataset"], has)
    groups, _, names = sentence.rpartition("; ")[2].partition(" that fit: ")
    group = {"models": "model", "data sets": "dataset"}[groups]
    for name in names.split(", "):
        again = misfit(**{**parts, group: MADE_UP[f"{group}={name}"]}, has=has)
        assert again == "" if group == "model" else not again.startswith(str(parts["method"]))


# --- through the command line ----------------------------------------------------------------------------------------

REFUSED = [  # overrides; the sentence up to the list of what fits; one that is in the list, and one that is not
    (
        ["method=cll", "dataset=street_scenes"],
        "method=cll needs a class for each image; dataset=street_scenes has a class for each pixel; "
        "data sets that fit: ",
        "digits",
        "street_scenes",
    ),
    (
        ["method=given", "model=timm", "model.pretrained=true", "dataset=street_scenes"],
        "model=resnet18 gives a class for each image; dataset=street_scenes has a class for each pixel; "
        "models that fit: ",
        None,
        "timm",
    ),
    (
        ["method=cll", "model=timm"],
        "method=cll needs layers with a known Lipschitz constant; model=resnet18 gives logits; models that fit: ",
        "conv_4c3f",
        "timm",
    ),
    (["method=given", "model=conv_4c3f"], f"method=given needs {TRAINED}", None, None),
    (
        ["method=standard", "model=none"],
        "model=none gives nothing; dataset=digits has a class for each image; models that fit: ",
        "conv_4c3f",
        "none",
    ),
    (
        ["method=standard", "model=timm", "eval=[certify]"],
        "eval=certify needs layers with a known Lipschitz constant; model=resnet18 gives logits; models that fit: ",
        "conv_4c3f",
        "timm",
    ),
    (
        ["method=standard", "eval=[patches]"],
        "eval=patches needs patches; method=standard gives none; methods that fit: ",
        "protopnet",
        "standard",
    ),
    (
        ["method=standard", "eval=[clean]", "dataset@eval.clean.data=street_scenes"],
        "eval=clean needs a class for each image; dataset=street_scenes has a class for each pixel; evals that fit: ",
        None,
        "clean",
    ),
]


@pytest.mark.parametrize(
    ("overrides", "start", "among", "not_among"), REFUSED, ids=[" ".join(each[0]) for each in REFUSED]
)
def test_a_mismatch_is_refused_in_one_sentence(composed, overrides, start, among, not_among):
    with pytest.raises(UserError) as error:
        composed(*overrides)
    sentence = str(error.value)
    assert sentence.startswith(start)
    assert "\n" not in sentence
    names = sentence.removeprefix(start).split(", ")
    assert among is None or among in names
    assert not_among not in names


def test_an_eval_that_is_refused_says_which_of_the_chosen_remain(composed):
    with pytest.raises(UserError, match=r"; choose eval=\[clean\]$"):
        composed("method=standard", "model=timm", "eval=[clean,certify]")


def test_a_usual_eval_that_does_not_fit_is_left_out_with_its_reason(composed):
    config = composed("method=standard", "model=timm")
    assert "certify" not in config["eval"]
    assert "clean" in config["eval"]
    (why,) = config["left_out"].values()
    assert why.startswith("eval=certify needs layers with a known Lipschitz constant; model=resnet18 gives logits; ")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["method=cll", "model=timm"], "method=cll needs layers with a known Lipschitz constant"),
        (["method=standard", "eval=[patches]"], "eval=patches needs patches; method=standard gives none"),
        (["method=cll", "dataset=digts"], "dataset 'digts' does not exist; did you mean digits?"),
        (["method=cll", "eval=[clean,certfy]"], "eval 'certfy' does not exist; did you mean certify?"),
    ],
    ids=["model", "eval", "misspelt", "misspelt in a list"],
)
def test_a_mismatch_ends_with_exit_code_2_before_anything_is_written(command_line, overrides, sentence):
    process = command_line.here(*overrides)
    assert process.returncode == 2
    (said,) = process.stderr.strip().splitlines()
    assert said.startswith("error: ")
    assert sentence in said
    assert list(command_line.runs.rglob("*")) == []


# --- a task that a value sets ----------------------------------------------------------------------------------------

SCENES = ("method=standard", "dataset=street_scenes")
KINDS_OF_PLACES = "dataset.task=classification"
SETS_NO_TASK = "method=standard needs a class for each image; dataset=street_scenes has a class for each pixel"


def assert_made_for_classes(config) -> None:
    assert config["model"]["name"] == "resnet18"
    assert {"clean", "autoattack"} <= set(config["eval"])


def test_the_task_of_values():
    assert task_of({"normal_class": 3}) == "anomaly"
    assert task_of({"normal_class": 0, "task": "classification"}) == "anomaly"
    assert task_of({"normal_class": None, "task": "segmentation"}) == "segmentation"
    assert task_of({"batch_size": 3}) is None


def test_a_task_among_overrides_becomes_a_choice():
    assert with_task(["dataset.normal_class=3"]) == ["task=anomaly", "dataset.normal_class=3"]
    assert with_task(["dataset.task=detection", "seed=1"]) == ["task=detection", "dataset.task=detection", "seed=1"]
    for as_they_are in (["seed=1"], ["dataset.batch_size=3"], ["task=own", KINDS_OF_PLACES], ["dataset.task=colour"]):
        assert with_task(as_they_are) == as_they_are


def test_a_value_sets_the_task_of_a_single_run(command_line):
    process = command_line.here(*SCENES, KINDS_OF_PLACES, "--cfg", "job")
    assert process.returncode == 0, process.stderr
    assert_made_for_classes(yaml.safe_load(process.stdout))
    assert SETS_NO_TASK in command_line.here(*SCENES).stderr


def test_a_value_sets_the_task_of_a_job_of_a_sweep(composed):
    """``-m dataset.task=segmentation,classification`` makes these two jobs."""
    with pytest.raises(UserError, match=SETS_NO_TASK):
        composed(*SCENES, "dataset.task=segmentation")
    assert_made_for_classes(composed(*SCENES, KINDS_OF_PLACES))


def test_a_value_sets_the_task_of_a_row_of_experiments(tmp_path, monkeypatch):
    table = tmp_path / "experiments" / "made_up" / "table"
    table.mkdir(parents=True)
    (table / "by.yaml").write_text(
        "# @package _global_\n"
        "series: {task: [classification, segmentation]}\n"
        "defaults: [{override /method: standard}, {override /dataset: street_scenes}, _self_]\n"
        "dataset: {task: '${series.task}'}\n"
        "paper: {row: scenes}\n"
    )
    monkeypatch.setattr(searchpath, "ROOT", tmp_path)
    with composing():
        rows = [compose("config", [f"+experiments/made_up/table=by_{name}"]) for name in (*CLASSES, *PIXELS)]
    assert_made_for_classes(Composer().check(rows[0]))
    with pytest.raises(UserError, match=SETS_NO_TASK):
        Composer().check(rows[1])


def test_a_value_sets_the_task_of_a_source(composed, tmp_path):
    source = f"[{','.join((*SCENES, KINDS_OF_PLACES))}]"
    config = composed("method=transfer", "dataset=cifar10", f"source='{source}'")
    (job,) = described_jobs(config, tmp_path, Composer())
    assert job.config["dataset"]["task"] == "classification"
    assert job.config["model"]["name"] == "resnet18"
    with pytest.raises(UserError, match=SETS_NO_TASK):
        composed("method=transfer", "dataset=cifar10", f"source='[{','.join(SCENES)}]'")


def test_a_task_that_does_not_exist_is_one_sentence(composed):
    with pytest.raises(UserError, match=r"^dataset\.task must be one of .*; got 'segmentatoin'; did you mean seg"):
        composed(*SCENES, "dataset.task=segmentatoin")


# --- the order of evals ----------------------------------------------------------------------------------------------


def test_evals_come_after_those_whose_outcomes_they_use(composed):
    chosen = composed("method=cll", "eval=[autoattack,clean,certify]")["eval"]
    assert list(in_order(chosen)) == ["clean", "certify", "autoattack"]
    assert list(in_order({name: chosen[name] for name in ("autoattack", "clean")})) == ["autoattack", "clean"]
    assert in_order(chosen) == chosen, "the same nodes"


def test_evals_that_wait_for_each_other_run_all_the_same(composed, monkeypatch):
    chosen = composed("method=cll", "eval=[autoattack,certify]")["eval"]
    schema = contract.find_schema(chosen["certify"]["_schema_"])
    other = contract.find_schema(chosen["autoattack"]["_schema_"])
    monkeypatch.setattr(schema, "after", ("broken",))
    monkeypatch.setattr(other, "gives", ("broken",))
    assert set(in_order(chosen)) == {"certify", "autoattack"}


# --- trust-exp list --for --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "shown", "hidden"),
    [
        (["dataset=digits"], ["cll", "standard", "conv_4c3f", "clean", "certify"], ["street_scenes"]),
        (["dataset=street_scenes", KINDS_OF_PLACES], ["standard", "timm", "clean"], ["camvid"]),
        (["model=timm"], ["standard", "clean", "mnist"], ["cll", "certify", "voc"]),
        (["method=cll"], ["conv_4c3f", "certify", "digits"], ["timm", "patches", "camvid"]),
        (["eval=patches"], ["protopnet", "digits"], ["cll", "camvid"]),
        (["method=cll", "eval=certify"], ["conv_4c3f", "digits"], ["timm", "camvid"]),
    ],
    ids=lambda words: " ".join(words),
)
def test_the_list_shows_what_fits_a_choice(capsys, wanted, shown, hidden):
    list_choices(None, wanted)
    words = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert set(shown) <= words
    assert not set(hidden) & words


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        (["datset=camvid"], "--for 'datset' does not exist; did you mean dataset?"),
        (["dataset=camvit"], "dataset 'camvit' does not exist; did you mean camvid?"),
        (["dataset.task=segmentation"], "--for dataset.task=segmentation needs its data set"),
    ],
    ids=" ".join,
)
def test_the_list_says_what_it_does_not_know(wanted, sentence):
    with pytest.raises(UserError) as error:
        list_choices(None, wanted)
    assert str(error.value).startswith(sentence)


def test_the_list_says_where_nothing_fits(capsys):
    list_choices("eval", ["model=none"])
    assert "nothing here fits" in capsys.readouterr().out
