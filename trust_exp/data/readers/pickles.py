"""The pickled batches of CIFAR-10, CIFAR-100 and Small-ImageNet, read without running code from them. No torch.

Unpickling calls whatever a file names. Here a file can only name the stand-ins below, which take notes; arrays are made
from the notes afterwards, by numpy's own checks, so no code of numpy ever sees a state that a file made up.
"""

import io
import math
import pickle
import pickletools
import re
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from trust_exp.errors import UserError, quoted

DIMENSIONS = 32  # numpy's
PLAIN = re.compile(r"[<>|=]?(?:b1|[iu][1248]|f[248])")


def load_pickled_arrays(path: str | Path) -> dict[str, Any]:
    """The dictionary in a pickle of plain data, as Python 2 or 3 wrote it, of any protocol.

    Returns:
        Values by name: arrays of booleans, integers or floats in the file's shape and type, perhaps read-only; numbers,
        str, bytes, None, and lists of these. Keys are str also where Python 2 wrote bytes.

    Raises:
        UserError: if the file cannot be read, is damaged, or names or holds anything else, e.g. an array of objects.
    """
    try:
        # Not the file itself: it would ask for the memory of all that a pickle announces before it reads.
        file = io.BytesIO(Path(path).read_bytes())
        _check_operations(file)
        file.seek(0)
        content = _Unpickler(file, encoding="bytes").load()
        if not isinstance(content, dict):
            raise pickle.UnpicklingError(f"it holds one {type(content).__name__}")
        return {_text(key): _value(value) for key, value in content.items()}
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:  # a damaged pickle raises anything: KeyError, MemoryError, UnicodeDecodeError, ...
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} is not a whole pickle of plain arrays: {reason}") from error


def _check_operations(file: BinaryIO) -> None:
    """Refuse what a stand-in cannot guard against: extension codes, which may skip find_class, and memory bombs."""
    for count, (operation, argument, _) in enumerate(pickletools.genops(file)):
        if operation.name.startswith("EXT"):
            raise pickle.UnpicklingError(f"it uses the extension code {argument}")
        if operation.name in ("PUT", "LONG_BINPUT") and int(argument or 0) > count:  # the memo grows up to this index
            raise pickle.UnpicklingError(f"it remembers its object {count} as number {argument}")


class _Inert:
    """All that a file may name. Without __setstate__ pickle's BUILD would set attributes, of the class itself too."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError(f"it sets the state of a {type(self).__name__.strip('_').lower()}")


class _Dtype(_Inert):
    """Stands for numpy.dtype, called with its code, then given its byte order."""

    __slots__ = ("code",)

    def __init__(self, code: str | bytes, *_: Any) -> None:
        self.code = _text(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.code = _text(state[1]) + self.code.lstrip("<>|=")

    def real(self) -> np.dtype[Any]:
        if not PLAIN.fullmatch(self.code):
            raise pickle.UnpicklingError(f"it holds an array of type {self.code!r}")
        return np.dtype(self.code)


class _Array(_Inert):
    """Stands for numpy.ndarray and for what makes an empty one, which is then given its content."""

    __slots__ = ("content", "dtype", "fortran", "shape")

    def __init__(self, *_: Any) -> None:
        self.dtype: Any = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, self.dtype, self.fortran, self.content = state

    def real(self) -> np.ndarray:
        if not isinstance(self.dtype, _Dtype):
            raise pickle.UnpicklingError("it holds an array without content")
        dtype = self.dtype.real()
        shape = self.shape
        if not isinstance(shape, tuple) or len(shape) > DIMENSIONS or not all(_is_length(one) for one in shape):
            raise pickle.UnpicklingError(f"it holds an array of shape {quoted(shape)}")
        if not isinstance(self.content, bytes | bytearray):
            raise pickle.UnpicklingError(f"it holds an array whose content is a {type(self.content).__name__}")
        if len(self.content) != math.prod(shape) * dtype.itemsize:
            raise pickle.UnpicklingError(f"it holds an array of shape {shape} with {len(self.content)} bytes")
        return np.ndarray(shape, dtype, self.content, order="F" if self.fortran else "C")


class _Buffer(_Inert):
    """Stands for what makes an array in protocol 5."""

    __slots__ = ()

    def __new__(cls, content: Any, dtype: Any, shape: Any, order: Any) -> Any:
        array = _Array()
        array.__setstate__((1, shape, dtype, order == "F", content))
        return array


class _Scalar(_Inert):
    """Stands for what makes a numpy scalar."""

    __slots__ = ("array",)

    def __init__(self, dtype: Any, content: Any) -> None:
        self.array = _Array()
        self.array.__setstate__((1, (), dtype, False, content))

    def real(self) -> Any:
        return self.array.real().item()


class _Latin1(_Inert):
    """Stands for _codecs.encode, as which Python 3 writes bytes in protocol 2."""

    __slots__ = ()

    def __new__(cls, text: str, encoding: str) -> Any:
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"it encodes text as {encoding!r}")
        return text.encode("latin1")


STAND_INS: dict[tuple[str, str], type] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Latin1,
    **{
        (f"numpy.{core}.{module}", name): stand_in
        for core in ("core", "_core")
        for module, name, stand_in in (
            ("multiarray", "_reconstruct", _Array),
            ("multiarray", "scalar", _Scalar),
            ("numeric", "_frombuffer", _Buffer),
        )
    },
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return STAND_INS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it wants to load {f'{module}.{name}'[:100]!r}") from None


def _is_length(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, str):
        return value
    raise pickle.UnpicklingError(f"it holds a {type(value).__name__} where there should be a name")


def _value(value: Any) -> Any:
    if isinstance(value, _Array):
        return value.real()
    return [_single(item) for item in value] if isinstance(value, list) else _single(value)


def _single(value: Any) -> Any:
    if isinstance(value, _Scalar):
        return value.real()
    if value is None or isinstance(value, int | float | str | bytes):
        return value
    raise pickle.UnpicklingError(f"it holds a {type(value).__name__} among its values")
