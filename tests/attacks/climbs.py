"""What both forms of APGD must do at a checkpoint of their steps."""

from typing import Any


def assert_the_first_two_were_halved(state: Any) -> None:
    """Of four climbs whose points are 0 to 3, best points 10 lower, and gradients 10 to 13, best ones 30 lower."""
    assert state.halved.tolist() == [True, True, False, False]
    assert state.step.flatten().tolist() == [1.0, 1.0, 2.0, 2.0]
    assert state.point.flatten().tolist() == [-10.0, -9.0, 2.0, 3.0], "back to the best point"
    assert state.gradient.flatten().tolist() == [-20.0, -19.0, 12.0, 13.0]
    assert state.checked_loss.tolist() == [2.0, 1.0, 2.0, 1.0]
    assert state.rises.tolist() == [0, 0, 0, 0]
