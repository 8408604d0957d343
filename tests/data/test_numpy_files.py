"""Files of numpy's arrays that hold what no reader can use; what else may be wrong is tried in tests/fuzz."""

import io

import numpy as np
import pytest

from trust_exp.data.numpy_files import load_npy, load_npz
from trust_exp.errors import UserError


@pytest.mark.parametrize("order", ["<", ">"])
def test_strings_are_read_in_either_byte_order(tmp_path, order):
    names = np.array(["a", "bé", "\U0001f600"]).astype(f"{order}U3")
    np.savez(tmp_path / "a.npz", names=names)
    assert load_npz(tmp_path / "a.npz")["names"].tolist() == ["a", "bé", "\U0001f600"]


def test_letters_that_do_not_exist_are_refused(tmp_path):
    """Python cannot make a string of them: a SystemError."""
    buffer = io.BytesIO()
    np.save(buffer, np.array(["ab", "c"]))
    (tmp_path / "a.npy").write_bytes(buffer.getvalue()[:-4] + b"\xff\xff\xff\x7f")
    with pytest.raises(UserError, match="letters that do not exist"):
        load_npy(tmp_path / "a.npy")


@pytest.mark.parametrize("kind", ["datetime64[s]", "timedelta64[s]"])
def test_dates_are_refused(tmp_path, kind):
    np.savez(tmp_path / "a.npz", when=np.zeros(2, kind))
    with pytest.raises(UserError, match="it holds values of the type"):
        load_npz(tmp_path / "a.npz")
