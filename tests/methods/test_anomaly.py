"""One-class anomaly detection: scores by nearest neighbours and by a subspace."""

import pytest
import timm
import torch
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from trust_exp.build import build
from trust_exp.data.digits import Digits
from trust_exp.errors import UserError
from trust_exp.methods.anomaly import core
from trust_exp.methods.anomaly.core import nearest_distance, principal_subspace, residual
from trust_exp.methods.anomaly.networks import NearestNeighbours
from trust_exp.models.features import Pixels, PooledFeatures
from trust_exp.networks import make_network


@pytest.mark.parametrize("neighbours", [1, 3])
def test_distances_are_those_of_scikit_learn(monkeypatch, neighbours):
    monkeypatch.setattr(core, "CHUNK", 200)  # several parts
    normal, features = torch.randn(40, 7, dtype=torch.float64), torch.randn(30, 7, dtype=torch.float64)
    slow = NearestNeighbors(n_neighbors=neighbours).fit(normal.numpy()).kneighbors(features.numpy())[0].mean(1)
    if neighbours == 1:
        assert torch.equal(nearest_distance(features, normal), nearest_distance(features, normal, 1))
    torch.testing.assert_close(nearest_distance(features, normal, neighbours), torch.from_numpy(slow))


@pytest.mark.parametrize("shape", [(50, 12), (9, 40)])
def test_the_residual_is_that_of_scikit_learns_pca(shape):
    normal, features = torch.randn(shape, dtype=torch.float64) * 3 + 1, torch.randn(20, shape[1], dtype=torch.float64)
    pca = PCA(4).fit(normal.numpy())
    slow = features.numpy() - pca.inverse_transform(pca.transform(features.numpy()))
    mean, basis = principal_subspace(normal, 4)
    torch.testing.assert_close(basis @ basis.T, torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(residual(features, mean, basis), torch.from_numpy((slow**2).sum(1)))


@pytest.mark.parametrize(("directions", "varying"), [(9, 8), (3, 2)])
def test_more_directions_than_samples_vary_in_are_refused(directions, varying):
    normal = torch.randn(9, 40)
    if varying == 2:
        normal = normal[:3].repeat(3, 1)
    with pytest.raises(ValueError, match=f"vary in {varying} directions; {directions} were asked for"):
        principal_subspace(normal, directions)


def solved(composed, quiet_trainer, *overrides):
    config = composed("dataset=digits", *overrides)
    data = build(config["dataset"], name="digits", root="unused", seed=0)
    method = build(config["method"], model=make_network(config, data.info), info=data.info)
    method.data = data
    quiet_trainer().test(method, verbose=False)
    return method, data


@pytest.mark.parametrize("method", ["nearest", "pca"])
def test_each_class_at_once_scores_as_one_run_a_class(composed, quiet_trainer, method):
    together, data = solved(composed, quiet_trainer, f"method={method}", "dataset.normal_class=each")
    images = data.arrays("test").batch().image
    scores = together.model(images)["scores"]
    assert scores.shape == (len(images), 10)
    for number in (0, 8):
        alone, _ = solved(composed, quiet_trainer, f"method={method}", f"dataset.normal_class={number}")
        assert torch.equal(alone.model(images)["scores"][:, 0], scores[:, number])


def test_samples_that_are_held_out_are_not_remembered(composed, quiet_trainer):
    method, data = solved(composed, quiet_trainer, "method=nearest", "dataset.normal_class=3")
    (normal,) = method.model.of(0)
    assert torch.equal(normal, data.arrays("train").batch().image.flatten(1))
    assert (method.model(data.arrays("train").batch().image)["scores"] < 1e-2).all()
    assert (method.model(data.arrays("val").batch().image)["scores"] > 0.1).all()


def test_weights_of_any_number_of_samples_are_loaded():
    network = NearestNeighbours(Pixels(), 2, 1)
    network.keep(0, torch.randn(5, 4))
    network.keep(1, torch.randn(3, 4))
    other = NearestNeighbours(Pixels(), 2, 1)
    other.load_state_dict(network.state_dict(), strict=True)
    image = torch.randn(6, 1, 2, 2)
    assert torch.equal(network(image)["scores"], other(image)["scores"])


def test_more_neighbours_than_normal_samples_are_refused(composed, quiet_trainer):
    with pytest.raises(UserError, match=r"method.neighbours=500 is more than the \d+ normal samples"):
        solved(composed, quiet_trainer, "method=nearest", "dataset.normal_class=3", "method.neighbours=500")
    with pytest.raises(UserError, match=r"method.directions=60: the normal \d+ samples vary in \d+ directions"):
        solved(composed, quiet_trainer, "method=pca", "dataset.normal_class=0", "method.directions=60")


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "mobilenetv3_small_050"])
def test_features_are_what_the_last_layer_is_given(name):
    network = timm.create_model(name, num_classes=5).eval()
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        found = PooledFeatures(network, (3, 224, 224))(images)
        torch.testing.assert_close(found, network.forward_head(network.forward_features(images), pre_logits=True))


def test_a_network_that_was_not_trained_is_refused(composed):
    with pytest.raises(UserError, match="method=nearest needs trained weights: source="):
        composed("method=nearest", "dataset=digits", "dataset.normal_class=3", "model=conv_2c2f")


def test_a_task_with_one_normal_class_names_what_fits(composed):
    with pytest.raises(UserError, match=r"method=nearest needs one normal class: dataset.normal_class=3"):
        composed("method=nearest", "dataset=digits")
    with pytest.raises(UserError, match=r"method=cll needs a class for each image; dataset.normal_class leaves one"):
        composed("method=cll", "dataset=digits", "dataset.normal_class=3")


def test_labels_stay_those_of_the_classes():
    data = Digits(name="digits", normal_class=["3"], hold_out=0.1)
    assert torch.equal(data.arrays("test").labels, Digits(name="digits").arrays("test").labels)
