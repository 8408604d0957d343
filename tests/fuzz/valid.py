"""Valid files, tiny, as bytes."""

import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

RANDOM = np.random.default_rng(0)


def photo(height: int = 4, width: int = 6, channels: int = 3) -> np.ndarray:
    return RANDOM.integers(0, 256, (height, width, channels), np.uint8)


def image(pixels: Any, kind: str = "PNG", **options: Any) -> bytes:
    made = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(made, kind, **options)
    return made.getvalue()


def npy(array: Any) -> bytes:
    made = io.BytesIO()
    np.save(made, np.asarray(array))
    return made.getvalue()


def npz(compressed: bool = False, **arrays: Any) -> bytes:
    made = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(made, **arrays)
    return made.getvalue()


def mat(compressed: bool = False, version: str = "5", **arrays: Any) -> bytes:
    from scipy.io import savemat

    made = io.BytesIO()
    savemat(made, arrays, do_compression=compressed, format=version)
    return made.getvalue()


def idx(array: np.ndarray, code: int, packed: bool = False) -> bytes:
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    content = header + array.tobytes()
    return gzip.compress(content, mtime=0) if packed else content


def tar(members: Mapping[str, bytes], form: int = tarfile.USTAR_FORMAT, packed: bool = False) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=form) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(made.getvalue(), mtime=0) if packed else made.getvalue()


def zipped(members: Mapping[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return made.getvalue()


def lines(*texts: str) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode()
