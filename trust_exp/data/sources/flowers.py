"""Oxford Flowers: photographs of 102 kinds of flowers. No torch."""

from pathlib import Path
from typing import ClassVar

import numpy as np

from trust_exp.data.fetch import Remote
from trust_exp.data.readers.matlab import read_mat
from trust_exp.data.sources.base import Source
from trust_exp.data.sources.folder import stream_info, write_index
from trust_exp.data.sources.layout import folders, holding
from trust_exp.data.store import Writer
from trust_exp.errors import UserError

PUBLISHED = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102"
LABELS, PARTS = "imagelabels.mat", "setid.mat"
IDS = {"train": "trnid", "val": "valid", "test": "tstid"}
# As torchvision lists them; the owners number the classes only.
CLASSES = (
    *("pink primrose", "hard-leaved pocket orchid", "canterbury bells", "sweet pea", "english marigold", "tiger lily"),
    *("moon orchid", "bird of paradise", "monkshood", "globe thistle", "snapdragon", "colt's foot", "king protea"),
    *("spear thistle", "yellow iris", "globe-flower", "purple coneflower", "peruvian lily", "balloon flower"),
    *("giant white arum lily", "fire lily", "pincushion flower", "fritillary", "red ginger", "grape hyacinth"),
    *("corn poppy", "prince of wales feathers", "stemless gentian", "artichoke", "sweet william", "carnation"),
    *("garden phlox", "love in the mist", "mexican aster", "alpine sea holly", "ruby-lipped cattleya", "cape flower"),
    *("great masterwort", "siam tulip", "lenten rose", "barbeton daisy", "daffodil", "sword lily", "poinsettia"),
    *("bolero deep blue", "wallflower", "marigold", "buttercup", "oxeye daisy", "common dandelion", "petunia"),
    *("wild pansy", "primula", "sunflower", "pelargonium", "bishop of llandaff", "gaura", "geranium"),
    *("orange dahlia", "pink-yellow dahlia?", "cautleya spicata", "japanese anemone", "black-eyed susan"),
    *("silverbush", "californian poppy", "osteospermum", "spring crocus", "bearded iris", "windflower", "tree poppy"),
    *("gazania", "azalea", "water lily", "rose", "thorn apple", "morning glory", "passion flower", "lotus"),
    *("toad lily", "anthurium", "frangipani", "clematis", "hibiscus", "columbine", "desert-rose", "tree mallow"),
    *("magnolia", "cyclamen", "watercress", "canna lily", "hippeastrum", "bee balm", "ball moss", "foxglove"),
    *("bougainvillea", "camellia", "mallow", "mexican petunia", "bromelia", "blanket flower", "trumpet creeper"),
    "blackberry lily",
)


class Flowers102(Source):
    """Flowers-102 (Nilsback, Zisserman 2008). The label of image ``i`` stands at place ``i``, counted from 1.

    The code of subset adversarial training counts from 0 there, and so takes the label of the next image. Images stand
    upright as EXIF has it.
    """

    name = "flowers102"
    images: ClassVar = {"train": 1020, "val": 1020, "test": 6149}
    megabytes = 350
    licence = "not stated with the images"
    homepage = f"{PUBLISHED}/"
    layout = "jpg/image_<number>.jpg, imagelabels.mat and setid.mat"
    folders = ("flowers-102",)
    # As torchvision lists them.
    remotes = (
        Remote(f"{PUBLISHED}/102flowers.tgz", "md5:52808999861908f626f3c1f4e79d11fa"),
        Remote(f"{PUBLISHED}/{LABELS}", "md5:e0620be6f572b9609742df49c70aed4d"),
        Remote(f"{PUBLISHED}/{PARTS}", "md5:a5357ecc9cb78c4bef273ce3793fc85c"),
    )
    streams = True
    reading = 2  # EXIF's orientation

    def check(self, folder: Path) -> None:
        find_images(folder)

    def read(self, folder: Path, into: Writer) -> None:
        place, images = find_images(folder)
        labels = read_numbers(place / LABELS, "labels", len(CLASSES))
        parts = {}
        for part, key in IDS.items():
            numbers = read_numbers(place / PARTS, key, len(labels)).tolist()
            parts[part] = [(str(images / f"image_{one:05d}.jpg"), int(labels[one - 1]) - 1) for one in numbers]
        check_disjoint(place / PARTS, [path for samples in parts.values() for path, _ in samples])
        write_index(folder, parts, into)
        into.info = stream_info(self.name, list(CLASSES))


def find_images(folder: Path) -> tuple[Path, Path]:
    """The folder with the labels and that with the images.

    Raises:
        UserError: if one of them is missing.
    """
    place = holding(folder, LABELS, PARTS)
    if place is None:
        raise UserError(f"{folder} lacks {LABELS} and {PARTS}; dataset=flowers102 needs {Flowers102.layout}")
    for images in folders(place):
        if images.name == "jpg":
            return place, images
    raise UserError(f"{place} lacks the folder jpg with the images; dataset=flowers102 needs {Flowers102.layout}")


def read_numbers(path: Path, key: str, most: int) -> np.ndarray:
    """Numbers in 1..most from a file of MATLAB, [N].

    Raises:
        UserError: if it cannot be read, or holds anything else.
    """
    numbers = np.asarray(read_mat(path, key)[key]).ravel()
    # compared before the cast, for which nan is no number
    if numbers.dtype.kind not in "iuf" or not numbers.size or not ((numbers >= 1) & (numbers <= most)).all():
        raise UserError(f"{path}: {key} must be whole numbers from 1 to {most}")
    whole: np.ndarray = numbers.astype(np.int64)
    if (whole != numbers).any():
        raise UserError(f"{path}: {key} must be whole numbers from 1 to {most}")
    return whole


def check_disjoint(path: Path, images: list[str]) -> None:
    """Raise UserError if the parts that a file names share an image."""
    if len(set(images)) < len(images):
        raise UserError(f"{path} names {len(images) - len(set(images))} images more than once")
