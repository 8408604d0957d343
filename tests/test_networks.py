"""Networks of earlier runs, as their methods made them, and what is built on them."""

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from trust_exp.data.digits import Digits
from trust_exp.engine import execute_and_record
from trust_exp.errors import UserError
from trust_exp.job import Job
from trust_exp.models.outputs import behind
from trust_exp.networks import load_state, make_network
from trust_exp.runs import open_run, write_json

RESNET = ("model=cifar_resnet20", "model.depth=8", "model.mean=null", "model.std=null")  # keeps places to its head
FLAT = ("model=conv_2c2f",)  # a flatten before its dense layers
KINDS = {  # of sources: the method, and its model or what it is built on
    "standard": RESNET,
    "sat": RESNET,
    "cll": FLAT,
    "transfer": "standard",
    "protonmf": "standard",
    "protopnet": "standard",
    "given": "standard",
}
INFO = Digits("digits").info


@pytest.fixture(scope="module")
def runs(composed_in, stored, tmp_path_factory):
    """A run of each kind, with random weights."""
    folder, found = tmp_path_factory.mktemp("runs"), {}
    for name, built_on in KINDS.items():
        more = built_on if isinstance(built_on, tuple) else (f"source={found[built_on].id}",)
        found[name] = stored(composed_in(folder, f"method={name}", "dataset=digits", *more))
    return found


@pytest.fixture(scope="module")
def consumer(composed_in, runs):
    """The network that a method makes of the run of a kind, for these data."""

    def make(method: str, kind: str, info=INFO, *more: str) -> nn.Module:
        source = runs[kind]
        given = (f"method={method}", "dataset=digits", f"source={source.id}", *more)
        return make_network(composed_in(source.folder.parent, *given), info).eval()

    return make


def whole(run, info=INFO) -> nn.Module:
    """A run's network with its weights."""
    config = (run.read("config.json") or {})["config"]
    network = make_network(config, info)
    if run.weights.exists():
        load_state(network, run.weights)
    return network.eval()


IMAGES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_given_network_is_that_of_its_source(consumer, runs, kind):
    assert torch.equal(consumer("given", kind)(IMAGES), whole(runs[kind])(IMAGES))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "protopnet"])
@torch.no_grad()
def test_transfer_takes_the_classifier_behind_its_source_without_the_head(consumer, runs, kind):
    layers = OrderedDict(behind(whole(runs[kind])).named_children())
    assert layers.popitem()[0] == "head"
    found = consumer("transfer", kind)
    assert torch.equal(found.features(IMAGES), nn.Sequential(layers)(IMAGES))
    assert found(IMAGES).shape == (6, 10)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "protopnet"])
@torch.no_grad()
def test_prototypes_are_made_of_the_classifier_behind_their_source(consumer, runs, kind):
    found = consumer("protonmf", kind)
    classifier = behind(whole(runs[kind]))
    assert type(found.explained) is type(classifier), "not prototypes of prototypes"
    assert torch.equal(found.explained(IMAGES), classifier(IMAGES))
    torch.testing.assert_close(found(IMAGES), classifier(IMAGES), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["standard", "sat", "protonmf", "given"])
@torch.no_grad()
def test_patches_are_of_the_classifier_behind_their_source(consumer, runs, kind):
    reader = consumer("protopnet", kind).reader
    assert torch.equal(reader(IMAGES)[1], behind(whole(runs[kind]))(IMAGES))
    assert reader.grid == (2, 2)


@pytest.mark.parametrize(
    ("method", "kind", "message"),
    [
        ("transfer", "protopnet", "ProtoPNet has no removable head"),
        ("protonmf", "protopnet", "the last layer of ProtoPNet is not linear"),
        ("protopnet", "protopnet", "the last layer of ProtoPNet is not linear"),
        ("protopnet", "cll", "need a network that keeps places up to its head"),
        ("protopnet", "transfer", "need a network that keeps places up to its head"),
    ],
)
def test_what_cannot_be_built_on_is_one_sentence(consumer, method, kind, message):
    with pytest.raises(UserError, match=message):
        consumer(method, kind)


# --- other classes --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["recorded", "not recorded"])
def of_five(request, composed_in, stored, tmp_path_factory):
    """Runs on five of the digits; older ones did not record how many classes they have."""
    folder, five = tmp_path_factory.mktemp("five"), "dataset.classes=[0,1,2,3,4]"
    found = {"standard": stored(composed_in(folder, "method=standard", "dataset=digits", *RESNET, five))}
    for name in ("transfer", "protonmf", "protopnet"):
        source = f"source={found['standard'].id}"
        found[name] = stored(composed_in(folder, f"method={name}", "dataset=digits", source, five))
    if request.param == "not recorded":
        for run in found.values():
            write_json(run.result, {"status": "done"})
    return found


@pytest.mark.parametrize("kind", ["standard", "transfer", "protonmf", "protopnet"])
@torch.no_grad()
def test_a_source_keeps_its_number_of_classes(of_five, composed_in, kind):
    run = of_five[kind]
    common = ("dataset=digits", f"source={run.id}")
    network = make_network(composed_in(run.folder.parent, "method=given", *common), INFO).eval()
    five = replace(INFO, classes=INFO.classes[:5])
    assert network(IMAGES).shape == (6, 5)
    assert torch.equal(network(IMAGES), whole(run, five)(IMAGES))
    if kind != "protopnet":
        other = make_network(composed_in(run.folder.parent, "method=transfer", *common), INFO)
        assert other(IMAGES).shape == (6, 10)
        with pytest.raises(UserError, match="the network has 5 classes; dataset=digits has 10; choose data of"):
            make_network(composed_in(run.folder.parent, "method=protonmf", *common), INFO)


def test_an_eval_on_data_of_other_classes_is_refused(of_five, composed_in, tmp_path):
    run = of_five["standard"]
    asked = composed_in(run.folder.parent, "method=given", "dataset=digits", f"source={run.id}", "eval=[clean]")
    job = Job(asked, open_run(asked, tmp_path / "given", []), [])
    with pytest.raises(UserError, match="the network has 5 classes; dataset=digits has 10"):
        execute_and_record(job)


# --- images of another size -----------------------------------------------------------------------------------------


LARGE = replace(INFO, shape=(1, 12, 12))


@pytest.mark.parametrize("kind", ["standard", "transfer", "protonmf", "protopnet", "given"])
@torch.no_grad()
def test_a_network_that_averages_over_places_takes_images_of_another_size(consumer, runs, kind):
    images = torch.rand(3, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    found = consumer("given", kind, LARGE)
    plain = whole(runs[kind])
    assert torch.equal(behind(found)(images), behind(plain)(images))
    assert found(images).shape == (3, 10)
    if kind in ("protonmf", "protopnet"):
        assert (plain.reader.grid, found.reader.grid) == ((2, 2), (3, 3))


@pytest.mark.parametrize("method", ["given", "transfer", "protonmf"])
@pytest.mark.parametrize("shape", [(1, 12, 12), (1, 6, 6)], ids=str)
def test_a_network_with_a_flatten_takes_only_its_own(consumer, method, shape):
    with pytest.raises(UserError, match=r"trained on inputs of the shape \(1, 8, 8\) and its weights do not fit"):
        consumer(method, "cll", replace(INFO, shape=shape))


@pytest.mark.parametrize("shape", [(3, 8, 8), (2,)], ids=str)
def test_images_of_other_channels_are_refused(consumer, shape):
    with pytest.raises(UserError, match=r"trained on inputs of the shape \(1, 8, 8\); these have \("):
        consumer("given", "standard", replace(INFO, shape=shape))


def test_a_source_that_is_gone_is_one_sentence(consumer, runs, tmp_path: Path):
    with pytest.raises(UserError, match="there is no such run"):
        consumer("given", "standard", INFO, "source=0123456789")
