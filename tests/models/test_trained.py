"""Weights of other people's files, and networks of earlier runs."""

import time

import pytest
import torch

from trust_exp.errors import UserError
from trust_exp.models.cifar_resnet import cifar_resnet
from trust_exp.models.timm import timm_model
from trust_exp.models.trained import load_published, read_state

SHAPE = (3, 32, 32)


def published(model, *, lead="module.", head="linear", under="state_dict") -> dict:
    """The weights of one of our models as others write them."""
    state = {}
    for name, value in model.state_dict().items():
        if name.startswith("normalize.") or name.endswith("num_batches_tracked"):
            continue
        state[lead + name.removeprefix("features.").replace("head.", f"{head}.")] = value
    return {under: state, "best_prec1": 91.7} if under else state


@pytest.mark.parametrize("given", [{}, {"lead": "", "head": "fc", "under": None}, {"lead": "model.", "under": "model"}])
def test_published_weights_are_loaded_whatever_their_names_begin_with(tmp_path, given):
    source, model = (cifar_resnet(SHAPE, 10, 8, [0.5] * 3, [0.2] * 3) for _ in range(2))
    torch.save(published(source, **given), tmp_path / "weights.th")
    load_published(model, tmp_path / "weights.th")
    for name, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_a_state_of_the_project_is_loaded_from_its_run(tmp_path):
    source, model = (cifar_resnet(SHAPE, 10, 8) for _ in range(2))
    torch.save({"state_dict": source.state_dict()}, tmp_path / "weights.pt")
    load_published(model, tmp_path)
    assert torch.equal(model.head.weight, source.head.weight)


def test_weights_of_timms_networks_are_loaded(tmp_path):
    timm = pytest.importorskip("timm")
    source = timm.create_model("resnet10t", num_classes=7).eval()
    torch.save(source.state_dict(), tmp_path / "resnet.pth")
    model = timm_model(SHAPE, 7, "resnet10t", mean=[0.0] * 3, std=[1.0] * 3).eval()
    load_published(model, tmp_path / "resnet.pth")
    images = torch.rand(2, *SHAPE)
    assert torch.equal(model(images), source(images))


def test_weights_of_another_network_are_refused_in_one_sentence(tmp_path):
    path = tmp_path / "w.th"
    torch.save(published(cifar_resnet(SHAPE, 10, 14)), path)
    with pytest.raises(UserError, match=r"w\.th belongs to another network: the network has no 'layer1\.1\..*'"):
        load_published(cifar_resnet(SHAPE, 10, 8), path)
    torch.save(published(cifar_resnet(SHAPE, 10, 8)), path)
    with pytest.raises(UserError, match=r"w\.th belongs to another network: it lacks"):
        load_published(cifar_resnet(SHAPE, 10, 14), path)
    with pytest.raises(UserError, match="the weights do not fit the network for these data: size mismatch for head"):
        load_published(cifar_resnet(SHAPE, 20, 8), path)
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"w\.th cannot be read as weights"):
        load_published(cifar_resnet(SHAPE, 10, 8), path)


def test_the_published_resnet_has_its_accuracy(shared_data):
    """91.67 % on the lossless test images (shared/data); here on the first 500 of the subset."""
    import numpy as np
    from PIL import Image

    labels = np.load(shared_data / "cifar10" / "cifar10_core_labels.npz")["test_labels"]
    sheet = np.asarray(Image.open(shared_data / "cifar10" / "cifar10_core_test.webp").convert("RGB"))
    images = sheet.reshape(-1, 32, 40, 32, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, 32, 32)[: len(labels)]
    model = cifar_resnet(SHAPE, 10, 20, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    load_published(model, shared_data / "weights" / "cifar10_resnet20-12fca82f.th")
    with torch.no_grad():
        found = model.eval()(torch.from_numpy(images.copy()).float() / 255).argmax(1).numpy()
    assert (found == labels).mean() == pytest.approx(0.9167, abs=0.03)


@pytest.mark.parametrize("under", ["model_state_dict", "net", "network", "weights_of_epoch_3"])
def test_weights_are_found_under_the_names_that_people_give_them(tmp_path, under):
    source, model = (cifar_resnet(SHAPE, 10, 8) for _ in range(2))
    torch.save({under: source.state_dict(), "epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / "w.pt")
    load_published(model, tmp_path / "w.pt")
    assert torch.equal(model.head.weight, source.head.weight)


@pytest.mark.parametrize("lead", ["_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model._orig_mod."])
def test_what_torch_compile_puts_before_names_is_left_out(tmp_path, lead):
    source, model = (cifar_resnet(SHAPE, 10, 8) for _ in range(2))
    torch.save({lead + name: value for name, value in source.state_dict().items()}, tmp_path / "w.pt")
    load_published(model, tmp_path / "w.pt")
    assert torch.equal(model.head.weight, source.head.weight)


def test_a_file_without_weights_says_what_it_holds(tmp_path):
    torch.save({"first": {"a": torch.ones(1)}, "second": {"a": torch.ones(1)}, "epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"w\.pt holds no state of a network; it holds first, second, epoch"):
        read_state(tmp_path / "w.pt")
    torch.save([1, 2], tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"w\.pt holds no state of a network$"):
        read_state(tmp_path / "w.pt")


def test_weights_that_are_not_finite_are_named(tmp_path):
    state = cifar_resnet(SHAPE, 10, 8).state_dict()
    state["head.weight"][0, 0] = float("nan")
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"w\.pt holds weights that are not finite: head\.weight$"):
        read_state(tmp_path / "w.pt")


def test_a_name_of_any_length_in_a_damaged_file_is_refused_at_once(tmp_path):
    """torch searches its own message about it, which takes the square of its length: a minute for this one."""
    path = tmp_path / "w.pt"
    path.write_bytes(b"\x80\x02c" + b"x" * 300_000 + b"\nname\n.")
    before = time.process_time()
    with pytest.raises(UserError, match="cannot be read as weights"):
        read_state(path)
    assert time.process_time() - before < 5


def test_weights_of_torch_before_1_6_are_read(tmp_path):
    torch.save({"a": torch.arange(3.0)}, tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    assert read_state(tmp_path / "w.pt")["a"].tolist() == [0, 1, 2]
