"""Street View House Numbers, cropped digits, which come as MATLAB files. No torch."""

from pathlib import Path
from typing import ClassVar

import numpy as np

from trust_exp.data.config import DatasetInfo
from trust_exp.data.fetch import Remote
from trust_exp.data.readers import matlab
from trust_exp.data.sources.base import Source
from trust_exp.data.sources.layout import holding
from trust_exp.data.sources.pixels import SIDE, described, read_labels
from trust_exp.data.store import Writer, file_digest
from trust_exp.errors import UserError

# As torchvision lists them.
MD5 = {
    "train": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test": "eb5a983be6a315427106f1b164d9cef3",
    "extra": "a93ce644f1a588dc4d68dda5feec44a7",
}
BYTES = {"train": 182_040_794, "test": 64_275_384}
URL = "http://ufldl.stanford.edu/housenumbers/"


class Svhn(Source):
    """Digits of 32x32 pixels (Netzer et al. 2011); the part extra is read if its file is there."""

    name = "svhn"
    images: ClassVar = {"train": 73_257, "test": 26_032, "extra": 531_131}
    megabytes = 305  # without extra
    licence = "non-commercial use only"
    homepage = URL
    layout = "train_32x32.mat, test_32x32.mat and, if wanted, extra_32x32.mat"
    folders = ("SVHN",)
    remotes = tuple(Remote(f"{URL}{part}_32x32.mat", f"md5:{MD5[part]}", size) for part, size in BYTES.items())

    def check(self, folder: Path) -> None:
        find_mat(folder)

    def read(self, folder: Path, into: Writer) -> None:
        into.info = DatasetInfo(self.name, tuple("0123456789"), (3, SIDE, SIDE), (0.0, 1.0))
        found = find_mat(folder)
        into.files += found.values()
        for part, path in found.items():
            images, labels = read_mat(path)
            into.array(part, "images", images.shape, np.uint8)[...] = images
            into.put(part, labels=labels)
        checksums = {part: file_digest(path, "md5") for part, path in found.items()}
        verified = all(MD5[part] == value for part, value in checksums.items())
        into.source = {"md5": checksums, "verified": verified}


def find_mat(folder: Path) -> dict[str, Path]:
    """The files of the set by part.

    Raises:
        UserError: if train or test is missing.
    """
    place = holding(folder, "train_32x32.mat", "test_32x32.mat")
    if place is None:
        raise UserError(f"{folder} holds no svhn: there must be {Svhn.layout}")
    paths = {part: place / f"{part}_32x32.mat" for part in MD5}
    return {part: path for part, path in paths.items() if path.is_file()}


def read_mat(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 3, 32, 32] and labels uint8 [N] of a file that stores X [32, 32, 3, N], and 10 for a zero.

    Raises:
        UserError: if it is damaged or of another form.
    """
    images, labels = map(np.asarray, matlab.read_mat(path, "X", "y").values())
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[:3] != (SIDE, SIDE, 3) or not images.size:
        raise UserError(f"{path} holds {described(images)} as X; images are uint8 [{SIDE}, {SIDE}, 3, N]")
    found = read_labels(labels.squeeze(1) if labels.shape[1:] == (1,) else labels, images.shape[3], 10, path, first=1)
    return images.transpose(3, 2, 0, 1), (found + 1) % 10
