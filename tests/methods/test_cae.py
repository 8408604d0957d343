"""Autoencoders of normal images, and scores by their codes."""

import pytest
import torch
from sklearn.svm import OneClassSVM

from tests.methods.one_class import trained
from trust_exp.errors import UserError
from trust_exp.methods.anomaly.cae import NearestCode, SupportVectors
from trust_exp.models.cae import inception_cae

SHAPE = (1, 8, 8)


def normal_codes(rows=60):
    return torch.randn(rows, 5) * torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0])


@pytest.mark.parametrize("nu", [0.1, 0.5])
def test_the_score_is_that_of_scikit_learns_machine_with_its_sign_turned(nu):
    codes, others = normal_codes(), normal_codes(20) * 3
    network = SupportVectors(inception_cae(SHAPE, 2), nu)
    network.remember(codes)
    machine = OneClassSVM(nu=nu, gamma="scale").fit(codes.double().numpy())
    slow = -machine.decision_function(others.double().numpy())
    torch.testing.assert_close(network.of(others).double(), torch.from_numpy(slow), rtol=1e-4, atol=1e-4)
    far = network.of(torch.full((1, 5), 50.0))
    assert far > network.of(codes.mean(0, keepdim=True)), "a larger score is more anomalous"


def test_the_score_is_the_squared_distance_to_the_nearest_code():
    codes, others = normal_codes(), normal_codes(9)
    network = NearestCode(inception_cae(SHAPE, 2))
    network.remember(codes)
    slow = (others[:, None] - codes).square().sum(2).min(1).values
    torch.testing.assert_close(network.of(others), slow, rtol=1e-4, atol=1e-5)


def test_before_the_end_of_the_training_there_is_no_score_by_codes():
    with pytest.raises(UserError, match="normal codes are kept at the end of the training"):
        NearestCode(inception_cae(SHAPE, 2)).eval()(torch.rand(1, *SHAPE))


def test_codes_of_any_number_are_loaded():
    network, other = (NearestCode(inception_cae(SHAPE, 2)).eval() for _ in range(2))
    network.remember(torch.randn(7, 128))
    other.load_state_dict(network.state_dict(), strict=True)
    image = torch.rand(3, *SHAPE)
    assert torch.equal(network(image)["scores"], other(image)["scores"])


@pytest.mark.parametrize("method", ["cae", "cae_ocsvm", "inception_cae"])
def test_each_class_at_once_ends_as_in_a_run_of_its_own(composed, quiet_trainer, method):
    def scores(normal):
        given = (f"method={method}", f"dataset.normal_class={normal}")
        learner = trained(composed, quiet_trainer, *given, epochs=1)
        image = learner.batches.data.arrays("test").batch().image
        with torch.no_grad():
            return learner.model.eval()(image)

    together = scores("each")
    assert together["scores"].shape[1] == 3
    for number, name in enumerate(("0", "1", "8")):
        alone = scores(name)
        for kind in (kind for kind in alone if kind.startswith("scores")):
            torch.testing.assert_close(alone[kind][:, 0], together[kind][:, number], rtol=1e-4, atol=1e-6)
