"""Files of tensors: whole when read, or refused."""

import pytest
import torch

from trust_exp.errors import UserError
from trust_exp.saving import check_whole, load_whole, save_whole


@pytest.fixture
def path(tmp_path):
    save_whole({"weight": torch.linspace(0, 1, 40), "step": 7}, tmp_path / "kept" / "weights.pt")
    return tmp_path / "kept" / "weights.pt"


def test_what_was_written_is_read(path):
    found = load_whole(path)
    assert found["step"] == 7
    assert torch.equal(found["weight"], torch.linspace(0, 1, 40))
    assert [file.name for file in path.parent.iterdir()] == ["weights.pt"]


def test_a_flipped_bit_of_a_number_is_refused(path):
    """torch reads it without a word."""
    content = path.read_bytes()
    at = content.index(torch.linspace(0, 1, 40).numpy().tobytes())
    for offset in range(160):
        path.write_bytes(content[: at + offset] + bytes([content[at + offset] ^ 1]) + content[at + offset + 1 :])
        assert not torch.equal(torch.load(path, weights_only=True)["weight"], torch.linspace(0, 1, 40))
        with pytest.raises(UserError, match=r"weights\.pt is damaged.*force=true"):
            load_whole(path)


def test_a_file_that_is_cut_off_is_refused(path):
    content = path.read_bytes()
    for length in range(0, len(content), 16):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match="damaged"):
            check_whole(path)


def test_a_file_that_holds_objects_is_refused(tmp_path):
    torch.save({"object": pytest.MonkeyPatch()}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match="cannot be read"):
        load_whole(tmp_path / "weights.pt")


def test_a_file_that_is_gone_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.pt is missing or damaged"):
        check_whole(tmp_path / "gone.pt")
