"""Files of MATLAB 5 to 7.2: numbers, texts, cells and structures. No torch.

Not by scipy, which believes what a file says: a wrong number in a header ends the whole process. Here each part lies
within the part around it, and nothing is allocated for what the file only announces.

Source: MathWorks, MAT-File Format (level 5).
"""

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trust_exp.data.numpy_files import check_keys
from trust_exp.data.readers.files import content
from trust_exp.errors import UserError, quoted

HEADER = 128
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
TEXTS = {1: "latin1", 2: "latin1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
MATRIX, COMPRESSED = 14, 15
CELL, STRUCTURE, TEXT, NUMERIC = 1, 2, 4, range(6, 16)
COMPLEX = 0x800  # a flag
DEPTH = 20  # of cells and structures in one another
HEAD = 256  # bytes of a compressed variable that hold its name


def read_mat(path: Path, *names: str) -> dict[str, Any]:
    """The variables called ``names`` in a file of MATLAB.

    Returns:
        By name: numbers and logicals as an array in MATLAB's shape, of at least two dimensions, in the type in which
        they are stored (MATLAB stores whole numbers of doubles as integers); a text as str; cells as an array of such
        values, structures as an array of dictionaries of them, in MATLAB's shape. What else lies in them, e.g. a sparse
        or complex matrix, is None.

    Raises:
        UserError: if the file cannot be read, is damaged, or lacks one of them, or if it is anything else.
    """
    stored = content(path)
    try:
        order = _order(stored)
        there = dict(_variables(stored, order))
        check_keys(path, names, there)
        found = {name: _value(_whole(there[name], order), order) for name in names}
        if lost := [name for name in names if found[name] is None]:
            raise ValueError(f"{lost[0]} is none of numbers, texts, cells and structures")
        return found
    except UserError:
        raise
    except (ValueError, LookupError, struct.error, zlib.error) as error:
        raise UserError(f"{path} cannot be read as a MATLAB 5 file: {error}") from error


@dataclass(frozen=True)
class _Part:
    """A data element: what it is and its bytes."""

    kind: int
    data: memoryview


def _order(stored: bytes) -> str:
    """How the file orders the bytes of a number."""
    if stored[:4] == b"\x89HDF" or stored[124:128] in (b"\0\2IM", b"\2\0MI"):
        raise ValueError("it is of MATLAB 7.3; save it in MATLAB with save(..., '-v7')")
    if stored[124:128] not in (b"\0\1IM", b"\1\0MI"):
        raise ValueError("it does not begin as one")
    return "<" if stored[126:128] == b"IM" else ">"


def _parts(data: memoryview, order: str) -> Iterator[_Part]:
    at = 0
    while at < len(data):
        (kind,) = struct.unpack_from(f"{order}I", data, at)
        if kind >> 16:  # a short one, whose four bytes stand in the place of the length
            yield _Part(kind & 0xFFFF, _cut(data, at + 4, kind >> 16))
            at += 8
        else:
            (size,) = struct.unpack_from(f"{order}I", data, at + 4)
            yield _Part(kind, _cut(data, at + 8, size))
            at += 8 + size + (0 if kind == COMPRESSED else -size % 8)


def _cut(data: memoryview, at: int, size: int) -> memoryview:
    if at + size > len(data):
        raise ValueError(f"it is truncated: {size} bytes are announced and {max(0, len(data) - at)} follow")
    return data[at : at + size]


def _variables(stored: bytes, order: str) -> Iterator[tuple[str, _Part]]:
    """Each variable by its name, still compressed if it is."""
    for part in _parts(memoryview(stored)[HEADER:], order):
        head = _unpacked(part.data[:HEAD])[8:] if part.kind == COMPRESSED else part.data
        with_name = list(zip(_parts_at_hand(head, order), range(3), strict=False))
        if part.kind in (MATRIX, COMPRESSED) and len(with_name) == 3:
            yield bytes(with_name[2][0].data).decode("latin1"), part


def _parts_at_hand(data: memoryview, order: str) -> Iterator[_Part]:
    """The parts at the begin of data that may be cut off."""
    try:
        yield from _parts(data, order)
    except (ValueError, struct.error):
        return


def _unpacked(data: memoryview) -> memoryview:
    """What a few bytes, the first of a variable, become."""
    return memoryview(zlib.decompressobj().decompress(data))


def _whole(part: _Part, order: str) -> _Part:
    """A variable, decompressed; its own length is the limit."""
    if part.kind == MATRIX:
        return part
    kind, size = struct.unpack_from(f"{order}2I", _unpacked(part.data[:HEAD]))
    stream = zlib.decompressobj()
    data = memoryview(stream.decompress(part.data, 8 + size))
    if stream.decompress(stream.unconsumed_tail, 1) or not stream.eof:  # which compares the checksum
        raise ValueError("it is damaged, or cut off inside a variable")
    return _Part(kind, _cut(data, 8, size))


def _value(part: _Part, order: str, depth: int = DEPTH) -> Any:
    """The value of a matrix, as ``read_mat`` gives it."""
    if part.kind != MATRIX or not depth:
        raise ValueError(f"it has a part of kind {part.kind} where a matrix must be" if depth else "it is too deep")
    if not len(part.data):
        return np.empty((0, 0))
    flags, *rest = _parts(part.data, order)
    (flag,) = struct.unpack_from(f"{order}I", flags.data)
    kind = flag & 0xFF
    if flag & COMPLEX or kind not in (CELL, STRUCTURE, TEXT, *NUMERIC):
        return None
    sizes, _, *parts = rest
    shape = tuple(_numbers(sizes, order).tolist())
    if len(shape) < 2 or any(type(size) is not int or size < 0 for size in shape):
        raise ValueError(f"it has a matrix of shape {quoted(shape)}")
    if kind == CELL:
        return _shaped(_listed([_value(one, order, depth - 1) for one in parts]), shape)
    if kind == STRUCTURE:
        width, listed, *fields = parts
        names = _names(bytes(listed.data), int(_numbers(width, order)[0]))
        return _structures(names, [_value(one, order, depth - 1) for one in fields], shape)
    (stored,) = parts
    return _text(stored, shape, order) if kind == TEXT else _shaped(_numbers(stored, order), shape)


def _names(listed: bytes, width: int) -> list[str]:
    """Names of fields, each in ``width`` bytes."""
    return [listed[at : at + width].split(b"\0")[0].decode("latin1") for at in range(0, len(listed), max(1, width))]


def _structures(names: list[str], values: list[Any], shape: tuple[int, ...]) -> np.ndarray:
    count, width = math.prod(shape), len(names)
    if len(values) != count * width or (not names and count > 1):  # those without fields take no place in the file
        raise ValueError(f"it has {len(values)} values for structures of {width} fields and shape {shape}")
    rows = [dict(zip(names, values[at * width : (at + 1) * width], strict=True)) for at in range(count)]
    return _shaped(_listed(rows), shape)


def _listed(values: list[Any]) -> np.ndarray:
    """An array of objects, [N]; numpy would take equal ones for further dimensions."""
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _numbers(part: _Part, order: str) -> np.ndarray:
    if part.kind not in NUMBERS:
        raise ValueError(f"it has numbers of kind {part.kind}")
    dtype = np.dtype(order + NUMBERS[part.kind])
    return np.frombuffer(part.data, dtype).astype(NUMBERS[part.kind], copy=False)


def _text(part: _Part, shape: tuple[int, ...], order: str) -> Any:
    if part.kind not in TEXTS:
        raise ValueError(f"it has a text of kind {part.kind}")
    encoding = TEXTS[part.kind]
    if encoding in ("utf-16", "utf-32"):
        encoding += "-le" if order == "<" else "-be"
    letters = bytes(part.data).decode(encoding)
    if 1 in shape or not letters:
        return letters
    rows = _shaped(np.array(list(letters)), shape).reshape(shape[0], -1)
    return np.array(["".join(row) for row in rows.tolist()])


def _shaped(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if array.size != math.prod(shape):
        raise ValueError(f"it has {array.size} values for a matrix of shape {shape}")
    return array.reshape(shape, order="F")
