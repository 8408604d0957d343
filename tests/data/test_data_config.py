import subprocess
import sys
from typing import get_args

import pytest
from omegaconf import OmegaConf

from trust_exp.data.config import AugmentConfig, DataConfig, PreparedConfig, StreetScenesConfig, TwoMoonsConfig
from trust_exp.errors import UserError
from trust_exp.tasks import TASKS, Task


def compose(schema, values):
    """As the command line does: values over a schema, then the object with its checks."""
    needed = {"_target_": "some.Class", "name": "some"}
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), needed, values))


@pytest.mark.parametrize(
    ("schema", "values", "message"),
    [
        (DataConfig, {"batch_size": 0}, "dataset.batch_size must be at least 1; got 0"),
        (DataConfig, {"eval_batch_size": -3}, "dataset.eval_batch_size must be at least 1; got -3"),
        (DataConfig, {"limit_train": 0}, "dataset.limit_train must be at least 1; got 0"),
        (DataConfig, {"augment": {"pad": -1}}, "dataset.augment.pad must be at least 0; got -1"),
        (DataConfig, {"augment": {"jitter": 1.5}}, "dataset.augment.jitter must be at most 1; got 1.5"),
        (DataConfig, {"augment": {"rotate": float("nan")}}, "dataset.augment.rotate must be finite; got nan"),
        (DataConfig, {"augment": {"resized_crop": [0.5, 1.0], "shift": 0.2}}, ".*shift=0.2 has no effect on .*"),
        (
            DataConfig,
            {"task": "detections"},
            "dataset.task must be one of .*, anomaly; got .* did you mean detection.*",
        ),
        (StreetScenesConfig, {"task": "detection"}, "dataset.task must be one of segmentation, classification; .*"),
        (TwoMoonsConfig, {"task": "segmentation"}, "dataset.task must be one of classification; got 'segmentation'"),
        (PreparedConfig, {"train": []}, r"dataset.train must name at least one part, and none twice; got \[\]"),
        (PreparedConfig, {"test": ["a", "a"]}, r"dataset.test must name .* none twice; got \['a', 'a'\]"),
        (DataConfig, {"hold_out": 0.0}, "dataset.hold_out must be between 0 and 1, both excluded; got 0"),
        (DataConfig, {"hold_out": 1.0}, "dataset.hold_out must be between 0 and 1, both excluded; got 1"),
        (DataConfig, {"hold_out": float("nan")}, "dataset.hold_out must be between 0 and 1, both excluded; got nan"),
        (PreparedConfig, {"val": ["a", "a"]}, r"dataset.val must name no part twice; got \['a', 'a'\]"),
        (PreparedConfig, {"val": ["test"]}, r"dataset.val=\['test'\] and dataset.test=\['test'\] share test"),
        (PreparedConfig, {"val": ["val"], "hold_out": 0.1}, r"dataset.val=\['val'\] and .* two validation sets; .*"),
        (TwoMoonsConfig, {"points": 1}, "dataset.points must be at least 2; got 1"),
        (TwoMoonsConfig, {"batch_size": 0}, "dataset.batch_size must be at least 1; got 0"),
        (TwoMoonsConfig, {"noise_radius": -0.1}, "dataset.noise_radius must be at least 0; got -0.1"),
    ],
)
def test_a_value_out_of_range_is_refused_in_one_sentence(schema, values, message):
    with pytest.raises(UserError, match=f"^{message}$"):
        compose(schema, values)


def test_every_task_has_a_phrase():
    assert tuple(TASKS) == get_args(Task)


def test_defaults_are_a_valid_config():
    config = compose(TwoMoonsConfig, {})
    assert config.augment == AugmentConfig()
    assert (config.points, config.test_points, config.noise_radius) == (2000, 20000, 0.1)


def test_what_does_not_change_training_is_not_part_of_the_identity():
    outside = {
        key for key, field in DataConfig.__dataclass_fields__.items() if not field.metadata.get("identity", True)
    }
    assert outside == {"eval_batch_size", "keep_on_device"}


def test_listing_and_checking_load_no_torch():
    code = "import sys, trust_exp.data.config, trust_exp.data.sources; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
