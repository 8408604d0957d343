import math

import torch

from trust_exp.data.digits import Digits
from trust_exp.evals.clean.suite import Clean
from trust_exp.evals.suite import Context
from trust_exp.verdicts import predicted

NAN = math.nan


def test_the_largest_logit_says_the_class():
    assert predicted(torch.tensor([[0.0, 2.0, 1.0], [3.0, -math.inf, 1.0], [1.0, 1.0, math.inf]])).tolist() == [1, 0, 2]


def test_logits_that_are_no_numbers_say_no_class():
    assert predicted(torch.tensor([[NAN, NAN], [NAN, 5.0], [5.0, NAN], [1.0, 2.0]])).tolist() == [-1, -1, -1, 1]


def test_a_network_that_gives_nan_is_never_right(tmp_path):
    """Half of the images have logits that are NaN; class 0 is right for some of them."""
    data = Digits("digits", limit_test=100)
    suite = Clean(["test"])

    class Broken(torch.nn.Module):
        def forward(self, image):
            logits = torch.zeros(len(image), 10)
            logits[:, 0] = 1
            logits[: len(image) // 2] = NAN
            return logits

    suite.context = Context(Broken(), data, tmp_path)
    batch = data.samples("test", torch.arange(100))
    correct = suite.step(batch)["correct"]
    assert (batch.label[:50] == 0).any()
    assert not correct[:50].any()
    assert torch.equal(correct[50:], batch.label[50:] == 0)
