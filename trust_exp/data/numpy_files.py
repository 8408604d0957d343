"""numpy's files of plain arrays, .npy and .npz. Nothing is allocated for what a file only announces. No torch."""

import math
import sys
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO

import numpy as np

from trust_exp.errors import UserError, quoted

HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
DEFLATED = 1032  # the most bytes that a byte of a deflated file can become
PLAIN = "biufcSUV"  # kinds of numbers, strings and records
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # those that numpy writes


def load_npy(path: Path) -> np.ndarray:
    """The array in an .npy file.

    Raises:
        UserError: if it cannot be read, is damaged, or holds objects.
    """
    try:
        with path.open("rb") as file:
            _check(file, path.stat().st_size)
            file.seek(0)
            return _readable(np.lib.format.read_array(file, allow_pickle=False))
    except Exception as error:
        raise UserError(f"{path} cannot be read as an .npy file of plain numbers: {_reason(error)}") from error


def load_npz(path: Path, *keys: str) -> dict[str, np.ndarray]:
    """The arrays in an .npz file by name: ``keys``, or all.

    Raises:
        UserError: if it cannot be read, is damaged, holds objects, or lacks one of ``keys``.
    """
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            arrays = [member for member in archive.infolist() if member.filename.endswith(".npy")]
            members = {member.filename.removesuffix(".npy"): member for member in arrays}
            check_keys(path, keys, members)
            return {key: _read(archive, members[key], size) for key in keys or members}
    except UserError:
        raise
    except Exception as error:  # a header is Python code to numpy: SyntaxError, TokenError, RecursionError, ...
        raise UserError(f"{path} cannot be read as an .npz file of plain arrays: {_reason(error)}") from error


def check_keys(path: Path, keys: Collection[str], found: Collection[str]) -> None:
    """Raise UserError unless a file has all of ``keys``."""
    if missing := [key for key in keys if key not in found]:
        names = ", ".join(sorted(found))
        there = "nothing" if not names else names if names.isprintable() and len(names) < 500 else quoted(names)
        raise UserError(f"{path} lacks {' and '.join(missing)}; it has {there}")


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo, size: int) -> np.ndarray:
    packed = min(size, member.compress_size)
    if member.compress_type not in METHODS or member.file_size > DEFLATED * (packed + 1):
        raise ValueError(f"{quoted(member.filename)} cannot have {member.file_size} bytes")
    with archive.open(member) as file:
        _check(file, member.file_size)
    with archive.open(member) as file:
        array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
        file.read()  # to the checksum
        return _readable(array)


def _readable(array: np.ndarray) -> np.ndarray:
    """The array itself; ValueError if it has letters that Unicode has not, which Python cannot make strings of."""
    if array.dtype.kind == "U":
        letters = np.frombuffer(array.tobytes(), np.dtype(np.uint32).newbyteorder(array.dtype.byteorder))
        if letters.size and int(letters.max()) > sys.maxunicode:
            raise ValueError("it has letters that do not exist")
    return array


def _check(file: IO[bytes], size: int) -> None:
    """Raise ValueError unless a file of so many bytes has the plain numbers or strings that its header announces."""
    version = np.lib.format.read_magic(file)
    if version not in HEADERS:
        raise ValueError(f"its format {version[0]}.{version[1]} is not one of plain arrays")
    shape, _, dtype = HEADERS[version](file)
    if dtype.hasobject:
        raise ValueError("Object arrays need allow_pickle=True, which may run code of the file")
    if dtype.kind not in PLAIN:
        raise ValueError(f"it holds values of the type {dtype}")
    if not dtype.itemsize or any(length < 0 for length in shape):
        raise ValueError(f"it announces {shape} values of {dtype.itemsize} bytes")
    announced, there = math.prod(shape) * dtype.itemsize, size - file.tell()
    if announced != there:
        raise ValueError(f"its header announces {quoted(announced)} bytes and {there} follow")


def _reason(error: Exception) -> str:
    strerror = getattr(error, "strerror", None)
    return str(strerror or " ".join(str(error).split())[:300] or type(error).__name__)
