"""Files of MATLAB, against scipy: what it writes is read as it reads it; what ends its process is refused."""

import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.io import loadmat, savemat

from trust_exp.data.readers.matlab import read_mat
from trust_exp.errors import UserError


def cell(values):
    made = np.empty(len(values), object)
    made[:] = values
    return made


NUMBERS = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", "?")
SHAPES = arrays.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)
NUMERIC = st.sampled_from(NUMBERS).flatmap(lambda kind: arrays.arrays(kind, SHAPES))
TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=0x24F, exclude_categories=("Cs", "Cc")), min_size=1)
NAMES = st.text("abcdefgh_1", min_size=1, max_size=20).filter(lambda name: name[0].isalpha())
VALUES = st.recursive(
    NUMERIC | TEXT,
    lambda inner: st.lists(inner, min_size=1, max_size=3).map(cell) | st.dictionaries(NAMES, inner, min_size=1),
    max_leaves=6,
)


def written(path, compressed=False, **values):
    savemat(path, values, do_compression=compressed)
    return path


def plain(value):
    """What scipy read, in the form that ``read_mat`` gives."""
    if value.dtype.names:
        made = np.empty(value.shape, object)
        for at in np.ndindex(value.shape):
            made[at] = {name: plain(value[at][name]) for name in value.dtype.names}
        return made
    if value.dtype == object:
        return cell([plain(one) for one in value.ravel()]).reshape(value.shape)
    if value.dtype.kind == "U":
        return str(value[0]) if value.size == 1 else "" if not value.size else value
    return value


def assert_same(ours, scipys):
    if isinstance(scipys, dict):
        assert ours.keys() == scipys.keys()
        for name in scipys:
            assert_same(ours[name], scipys[name])
    elif isinstance(scipys, np.ndarray) and scipys.dtype == object:
        assert ours.shape == scipys.shape
        for one, other in zip(ours.ravel(), scipys.ravel(), strict=True):
            assert_same(one, other)
    else:
        np.testing.assert_array_equal(ours, scipys)


@given(VALUES, st.booleans())
def test_what_scipy_writes_is_read_as_scipy_reads_it(tmp_path_factory, value, compressed):
    path = written(tmp_path_factory.getbasetemp() / "values.mat", compressed, first=np.eye(2), value=value)
    assert_same(read_mat(path, "value")["value"], plain(loadmat(path)["value"]))


def test_only_what_is_asked_for_is_read(tmp_path):
    path = written(tmp_path / "a.mat", one=[[1.5, 2.0]], other=np.eye(3) * 1j)
    found = read_mat(path, "one")
    assert list(found) == ["one"]
    assert found["one"].tolist() == [[1.5, 2.0]]
    with pytest.raises(UserError, match="other is none of numbers, texts, cells and structures"):
        read_mat(path, "other")
    with pytest.raises(UserError, match="lacks third; it has one, other"):
        read_mat(path, "third")


@pytest.mark.parametrize("compressed", [False, True])
def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path, compressed):
    path = written(tmp_path / "a.mat", compressed, a=np.arange(12.0).reshape(3, 4))
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"a\.mat"):
            read_mat(path, "a")


def test_a_byte_order_of_other_machines_is_read(tmp_path):
    """A big-endian file, written by hand after MathWorks' description."""
    name, data = b"a\0\0\0\0\0\0\0", struct.pack(">3d", 1.0, 2.5, -3.0)
    parts = [(6, struct.pack(">2I", 6, 0)), (5, struct.pack(">2i", 1, 3)), (1, name[:1]), (9, data)]
    inside = b"".join(struct.pack(">2I", kind, len(part)) + part + bytes(-len(part) % 8) for kind, part in parts)
    content = b"by hand".ljust(124) + b"\1\0MI" + struct.pack(">2I", 14, len(inside)) + inside
    (tmp_path / "a.mat").write_bytes(content)
    assert read_mat(tmp_path / "a.mat", "a")["a"].tolist() == [[1.0, 2.5, -3.0]]
    assert loadmat(io.BytesIO(content))["a"].tolist() == [[1.0, 2.5, -3.0]]


def test_a_file_of_matlab_7_3_says_how_to_save_it(tmp_path):
    (tmp_path / "a.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + bytes(400))
    with pytest.raises(UserError, match="-v7"):
        read_mat(tmp_path / "a.mat", "a")
