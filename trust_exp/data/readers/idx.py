"""The IDX format of MNIST. No torch."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from trust_exp.data.readers.files import content as read_bytes
from trust_exp.errors import UserError

DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MAX_DIMENSIONS = 32  # numpy's


def read_idx(path: str | Path) -> np.ndarray:
    """The array in an IDX file, plain or gzip-compressed (by its first bytes), in the file's shape and type.

    Raises:
        UserError: one sentence that names the file, if anything in it is not as it should be.

    Source: LeCun, Cortes, Burges, "The MNIST database", file formats.
    """
    return parse_idx(idx_content(path), path)


def idx_content(path: str | Path) -> bytes:
    """The content of an IDX file, unzipped if needed.

    Raises:
        UserError: if it cannot be read.
    """
    data = read_bytes(Path(path))
    try:
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is a corrupt gzip file: {error}") from error


def parse_idx(content: bytes, path: str | Path) -> np.ndarray:
    """As ``read_idx``, from the file's unzipped content; ``path`` is for messages."""
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in DTYPES or not 1 <= content[3] <= MAX_DIMENSIONS:
        raise UserError(f"{path} is not an IDX file: it begins with {content[:4].hex(' ') or 'nothing'}")
    dtype, dimensions = np.dtype(DTYPES[content[2]]), content[3]
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise UserError(f"{path} is truncated: it ends inside its header")
    shape = tuple(np.frombuffer(content, ">u4", dimensions, offset=4).tolist())
    # numpy has no array of such a shape, even if one side is 0
    if math.prod(max(1, side) for side in shape) * dtype.itemsize >= 2**63:
        raise UserError(f"{path} is not an IDX file: its header announces the shape {list(shape)}")
    expected = math.prod(shape) * dtype.itemsize
    if len(content) - start != expected:
        state = "truncated" if len(content) - start < expected else "too long"
        raise UserError(
            f"{path} is {state}: its header announces {expected} bytes of data and {len(content) - start} follow"
        )
    return np.frombuffer(content, dtype, offset=start).reshape(shape)
