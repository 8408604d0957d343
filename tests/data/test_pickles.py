"""Pickles as data sets bring them, and pickles that mean harm."""

import copyreg
import io
import os
import pickle
import pickletools
import re
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trust_exp.data.readers import pickles
from trust_exp.data.readers.pickles import load_pickled_arrays
from trust_exp.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 12), dtype=np.uint8)


def string2(content):
    """A str of Python 2, as its pickle protocol 2 writes it."""
    return (
        b"U" + bytes([len(content)]) + content
        if len(content) < 256
        else b"T" + struct.pack("<i", len(content)) + content
    )


def array2(array, code, order=b"|"):
    """An array as numpy wrote it under Python 2, protocol 2: names in numpy.core, text as str."""
    shape = b"(" + b"".join(b"M" + struct.pack("<H", size) for size in array.shape) + b"t"
    dtype = b"cnumpy\ndtype\n" + string2(code) + b"K\0K\1\x87R(K\3" + string2(order)
    dtype += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    begin = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + string2(b"b") + b"\x87R(K\1"
    return begin + shape + dtype + b"\x89" + string2(array.tobytes()) + b"tb"


def batch2():
    """A CIFAR batch as Python 2 wrote it."""
    names = b"](" + string2(b"a.png") + string2(b"b.png") + b"e"
    items = (
        (b"data", array2(IMAGES, b"u1")),
        (b"labels", b"](K\6K\x09M\x01\x01e"),
        (b"batch_label", string2(b"training batch 1 of 5")),
        (b"filenames", names),
        (b"mean", array2(np.array([0.5, 2.0]), b"f8", b"<")),
    )
    return b"\x80\2}q\1(" + b"".join(string2(key) + value for key, value in items) + b"u."


@pytest.fixture(scope="session")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("pickles") / "data_batch_1"


def load(path, content):
    path.write_bytes(content)
    return load_pickled_arrays(path)


def refused(path, content, message=""):
    path.write_bytes(content)
    whole = f"^{re.escape(str(path))} is not a whole pickle of plain arrays: .*{message}"
    with pytest.raises(UserError, match=whole) as raised:
        load_pickled_arrays(path)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 500


def test_a_batch_written_by_python_2_is_read(path):
    pickletools.dis(batch2(), io.StringIO())  # the test's own bytes are a well-formed pickle
    content = load(path, batch2())
    np.testing.assert_array_equal(content["data"], IMAGES)
    assert content["data"].dtype == np.uint8
    assert content["labels"] == [6, 9, 257]
    assert content["batch_label"] == b"training batch 1 of 5"
    assert content["filenames"] == [b"a.png", b"b.png"]
    assert content["mean"].tolist() == [0.5, 2.0]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
def test_every_protocol_and_both_names_of_numpys_core_are_read(path, protocol, core):
    batch = {
        "data": IMAGES,
        "columns": np.asfortranarray(IMAGES),
        "big": np.arange(6, dtype=">i4").reshape(1, 2, 3),
        "mean": np.linspace(0, 1, 7),
        "point": np.array(True),
        "labels": [1, 2, np.int64(3)],
        "names": ["a", b"b", None, 0.5],
        "top": np.float32(1.5),
    }
    if protocol > 2:  # before, Python 3 writes no bytes as a call of bytes; data sets have no empty arrays
        batch["empty"] = np.zeros((0, 3), np.float32)
    stored = pickle.dumps(batch, protocol)
    if protocol < 4:  # later the names are preceded by their lengths
        stored = stored.replace(b"numpy._core", core)
    content = load(path, stored)
    assert list(content) == list(batch)
    for name, value in batch.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(content[name], value)
            assert content[name].dtype == value.dtype
    assert (content["labels"], content["names"], content["top"]) == ([1, 2, 3], batch["names"], 1.5)
    assert {type(label) for label in content["labels"]} == {int}


def test_keys_of_bytes_become_str(path):
    assert load(path, pickle.dumps({b"fine_labels": [1], "coarse_labels": [2]}, 2)) == {
        "fine_labels": [1],
        "coarse_labels": [2],
    }


class Calls:
    """Pickles as a call of ``function``."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, "(posix|nt).system"),
        (eval, "(__builtin__|builtins).eval"),
        (getattr, "(__builtin__|builtins).getattr"),
        (np.load, "numpy.load"),
        (np.fromfile, "numpy.*fromfile"),
        (pickle.loads, "_?pickle.loads"),
        (bytearray, "(__builtin__|builtins).bytearray"),
    ],
)
def test_calls_are_refused_by_name(path, protocol, function, name):
    wanted = f"it wants to load '{name}'"
    refused(path, pickle.dumps({"data": Calls(function, "touch /tmp/x")}, protocol), wanted)
    refused(path, pickle.dumps({"data": [IMAGES, Calls(function, "x")]}, protocol), wanted)
    refused(path, pickle.dumps(Calls(function, "x"), protocol), wanted)


def test_a_call_in_the_state_of_an_array_is_refused(path):
    inner = pickle.dumps(Calls(os.system, "true"), 2)[2:-1]
    shape = b"M\x05\0M\x0c\0"
    content = batch2()
    assert shape in content
    refused(path, content.replace(shape, inner + shape, 1), "wants to load 'posix.system'")
    refused(path, content.replace(b"NNNJ", inner + b"NNJ", 1), "wants to load 'posix.system'")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (b"cnumpy\nload\n)R", "wants to load 'numpy.load'"),
        (b"cnumpy.core.multiarray\nfromfile\n)R", "wants to load 'numpy.core.multiarray.fromfile'"),
        (b"(S'x'\nios\nsystem\n", "wants to load 'os.system'"),
        (b"(cos\nsystem\nS'x'\no", "wants to load 'os.system'"),
        (b"\x8c\x02os\x8c\x06system\x93\x8c\x01x\x85R", "wants to load 'os.system'"),  # STACK_GLOBAL
        (b"\x8c\x05numpy\x8c\x10ndarray.__init__\x93)R", "wants to load 'numpy.ndarray.__init__'"),
        (b"\x8c\x02os\x94\x8c\x06system\x94\x93\x94h\x02\x8c\x01x\x85R", "wants to load 'os.system'"),  # by the memo
        (b"cnumpy\nndarray\nq\0cos\nsystem\nq\0h\0)R", "wants to load 'os.system'"),  # a memo that changes
        (b"cnumpy\ndtype\n(S'u1'\nt\x81(S'__class__'\nS'x'\ndb", ""),  # another state than a dtype's
        (b"c_codecs\nencode\n(Vabc\nVrot13\ntR", "it encodes text as 'rot13'"),
        (b"c_codecs\ndecode\n(Vabc\nVlatin1\ntR", "wants to load '_codecs.decode'"),
        (b"Pid\n", "persistent"),
        (b"K\0Q", "persistent"),
        (b"c" + b"o" * 100_000 + b"\nx\n", "wants to load 'ooo"),
        (b"\x8c\x04o\ns\n\x8c\x01x\x93", "wants to load"),
    ],
)
def test_crafted_values_are_refused(path, code, message):
    refused(path, b"\x80\4}\x8c\4data" + code + b"s.", message)


@pytest.mark.parametrize(
    "name", [b"numpy\nndarray", b"numpy\ndtype", b"_codecs\nencode", b"numpy.core.multiarray\nscalar"]
)
@pytest.mark.parametrize("key", ["__init__", "__new__", "__setstate__", "code", "real"])
@pytest.mark.parametrize("slots", [False, True])
def test_a_file_cannot_change_the_stand_ins(path, name, key, slots):
    state = {key: 1}
    build = b"\x80\2}" + string2(b"data") + b"c" + name + b"\n"
    build += pickle.dumps((None, state) if slots else state, 2)[2:-1] + b"bs."
    refused(path, build)
    np.testing.assert_array_equal(load(path, batch2())["data"], IMAGES)


@pytest.fixture
def registered():
    """An extension code that stands for os.system, as some library might have registered it, and used."""
    copyreg.add_extension("posix", "system", 200)
    assert pickle.loads(b"\x80\2\x82\xc8.") is os.system  # from here on pickle asks no find_class for it
    yield
    copyreg.remove_extension("posix", "system", 200)
    copyreg.clear_extension_cache()


@pytest.mark.parametrize("operation", [b"\x82\xc8", b"\x83\xc8\0", b"\x84\xc8\0\0\0"])
def test_extension_codes_are_refused_also_those_in_use(path, registered, operation):
    refused(path, b"\x80\2}U\4data" + operation + b"U\4true\x85Rs.", "it uses the extension code 200")


def test_a_memo_of_all_memory_is_refused(path):
    refused(path, b"\x80\2}r\xff\xff\xff\xff.", "it remembers its object 2 as number 4294967295")
    refused(path, b"}p99999999999\n.", "it remembers its object 1 as number 99999999999")


def test_lengths_that_no_file_has_are_refused(path):
    for operation in (b"\x8d", b"\x8e", b"\x95", b"\x96"):
        refused(path, b"\x80\4" + operation + struct.pack("<Q", 2**60) + b"x.")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([None, "x"], dtype=object), "an array of type '.?O8?'"),
        (np.array([(1, 2)], dtype="i4,i4"), "an array of type '.V8'"),
        (np.array(["abc"]), "an array of type '<U3'"),
        (np.array([1j]), "an array of type '<c16'"),
        ({"deep": 1}, "it holds a dict among its values"),
        ([[1]], "it holds a list among its values"),
        ({1}, "wants to load 'builtins.set'|it holds a set among"),
        (np.dtype("u1"), "it holds a _Dtype among"),
        (np.ndarray, "it holds a type among"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_other_values_are_refused(path, value, message, protocol):
    refused(path, pickle.dumps({"data": value}, protocol), "" if isinstance(value, set) else message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps([1, 2]), "it holds one list"),
        (pickle.dumps({1: 2}), "it holds a int where there should be a name"),
        (b"", ""),
        (b"\x89HDF\r\n\x1a\n", ""),
        (b"PK\3\4", ""),
        (b"<!DOCTYPE html>", ""),
    ],
)
def test_foreign_files_are_refused(path, content, message):
    refused(path, content, message)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"M\x05\0M\x0c\0", b"M\x06\0M\x0c\0"),  # more than there is
        (b"M\x05\0M\x0c\0", b"M\x04\0M\x0c\0"),
        (b"M\x05\0M\x0c\0", b"J\xfb\xff\xff\xffJ\xf4\xff\xff\xff"),  # negative, with the right product
        (b"M\x05\0M\x0c\0", b"S'x'\n"),
        (b"U\2u1", b"U\2O8"),
        (b"U\2u1", b"U\2V1"),
        (b"U\2u1", b"K\1"),
        (b"tbU\6labels", b"tU\6labels"),  # an array that was never given its content
    ],
)
def test_arrays_whose_parts_do_not_fit_are_refused(path, old, new):
    assert old in batch2()
    refused(path, batch2().replace(old, new, 1))


@pytest.mark.parametrize("content", [batch2(), pickle.dumps({"data": IMAGES, "labels": [1, 2]}, 4)])
def test_every_truncated_file_is_refused(path, content):
    for length in range(len(content)):
        refused(path, content[:length])


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none cannot be read: No such file or directory$"):
        load_pickled_arrays(tmp_path / "none")


BASE = st.sampled_from([b"", batch2(), pickle.dumps({"data": IMAGES, "labels": [1, 2]}, 4)])


@given(BASE, st.integers(0, 500), st.binary(max_size=40))
def test_any_bytes_are_read_or_refused_and_name_nothing(path, base, place, noise):
    place = min(place, len(base))
    path.write_bytes(base[:place] + noise + base[place + len(noise) :])
    try:
        content = load_pickled_arrays(path)
    except UserError:
        return
    for value in content.values():
        for item in value if isinstance(value, list) else [value]:
            assert item is None or type(item) in (np.ndarray, int, float, bool, str, bytes)
            assert not isinstance(item, np.ndarray) or item.dtype.kind in "biuf"


def test_only_the_stand_ins_can_be_named():
    assert {stand_in.__module__ for stand_in in pickles.STAND_INS.values()} == {pickles.__name__}
