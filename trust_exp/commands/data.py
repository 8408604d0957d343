"""``trust-exp data``: list, import, verify and show data sets. Only ``show`` imports torch."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from hydra import compose
from omegaconf import OmegaConf
from rich.table import Table
from rich.text import Text

from trust_exp.build import build
from trust_exp.commands import Commands, add_root
from trust_exp.commands.list import described
from trust_exp.compose import composing
from trust_exp.config import FIGURES
from trust_exp.console import console, say
from trust_exp.data import sources, store
from trust_exp.data.remarks import sentences
from trust_exp.errors import UserError, check_range, unknown
from trust_exp.runs import check_out, write_out
from trust_exp.schema import CONF, check_options, to_plain

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from trust_exp.data.batch import AnyBatch, DatasetInfo, Split
    from trust_exp.data.module import DataModule
    from trust_exp.viz.contact_sheet import Sheet

WIDE = 140  # columns that the table of data sets needs
LABELS = {"classification": "classes", "segmentation": "pixels", "detection": "boxes", "anomaly": "normal class"}


def add(commands: Commands) -> None:
    """Describe the command."""
    data = commands.add_parser("data", help="list, import, verify and show data sets").add_subparsers(
        dest="what", required=True, metavar="list|import|verify|show"
    )
    listing = data.add_parser("list", help="all data sets, which are present, and how to get the others")
    listing.set_defaults(action=lambda given: list_data(given.root))
    importing = data.add_parser("import", help="check and prepare files on disk")
    importing.add_argument("name", help="the data set, e.g. mnist")
    importing.add_argument("folder", type=Path, help="folder of its files")
    importing.set_defaults(action=lambda given: import_data(given.name, given.folder, given.root))
    verifying = data.add_parser("verify", help="compare prepared data with their checksums, and read every image")
    verifying.add_argument("name", help="the data set, e.g. mnist")
    verifying.set_defaults(action=lambda given: verify_data(given.name, given.root))
    showing = data.add_parser("show", help="draw images with their labels into a file")
    showing.add_argument("name", help="the data set, e.g. mnist")
    showing.add_argument("--out", type=Path, help="a .png, .pdf or .svg file (default: <name>.png, if there is none)")
    showing.add_argument("--count", type=int, default=24, help="number of images (default: 24)")
    showing.add_argument("--split", choices=("train", "val", "test"), default="test", help="default: test")
    showing.add_argument("overrides", nargs="*", default=[], metavar="dataset.key=value", help="as for run.py")
    showing.set_defaults(action=show_data)
    for parser in (listing, importing, verifying, showing):
        add_root(parser)


# --- what there is -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """A file of conf/dataset and the sources of its data; embedded data sets have none."""

    name: str
    about: str
    values: Mapping[str, Any]
    sources: Sequence[sources.Source]

    @property
    def task(self) -> str:
        """The task that its labels serve."""
        return str(self.values.get("task", "classification"))

    @property
    def own(self) -> bool:
        """Whether the data are the user's own."""
        return any(not source.images for source in self.sources)


def read_choice(name: str) -> Choice:
    """Read a data set's file in conf/dataset.

    Raises:
        UserError: if there is none of that name.
    """
    about = dict(described("dataset"))
    if name not in about:
        raise unknown("the data set", name, about)
    values = yaml_values(CONF / "dataset" / f"{name}.yaml")
    names = values.get("made_of") or [values.get("source") or name]
    known = sources.all_sources()
    return Choice(name, about[name], values, [known[each] for each in names if each in known])


def yaml_values(path: Path) -> dict[str, Any]:
    """The values of a file in conf/, neither composed nor resolved."""
    values: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(path))  # type: ignore[assignment]
    return values


def state(choice: Choice, root: Path) -> str:
    """Where the data are, in a few words; does not read them."""
    if not choice.sources:
        return "embedded"
    if choice.own:
        return "your own"
    missing = [source.name for source in choice.sources if not sources.is_present(source.name, root)]
    if missing:
        return "missing" if len(missing) == len(choice.sources) else f"{', '.join(missing)} missing"
    return "prepared" if all(store.is_prepared(root, source.name) for source in choice.sources) else f"files in {root}"


def list_data(root: Path) -> None:
    """Print every data set: what it is, whether it is in ``root``, and how to get it."""
    out = console()
    rows = [_row(read_choice(name), root) for name, _ in described("dataset")]
    if out.width < WIDE:
        for name, *facts, way, licence in rows:
            text = "; ".join(filter(None, (f"{name}: {', '.join(filter(None, facts))}", way, licence)))
            print(fill(text, out.width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False))
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in ("data set", "labels", "train + test"):
        table.add_column(head, no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("state", overflow="fold")
    table.add_column("how to get it", min_width=max(len(word) for *_, way, _ in rows for word in way.split()))
    table.add_column("licence")
    for row in rows:
        table.add_row(*map(Text, row))
    out.print(table)


def _row(choice: Choice, root: Path) -> tuple[str, ...]:
    first = choice.name, LABELS[choice.task]
    if not choice.sources or choice.own:
        return *first, "", "", state(choice, root), choice.about, ""
    ways = ("downloads itself" if source.remotes else f"from {source.homepage}" for source in choice.sources)
    licences = (source.licence for source in choice.sources)
    ends = ("; ".join(dict.fromkeys(texts)) for texts in (ways, licences))
    try:
        size, where = _size(choice, root), state(choice, root)
    except UserError:  # the manifest cannot be read
        size, where = "", "damaged"
    return *first, _published(choice), size, where, *ends


def _published(choice: Choice) -> str:
    """How many images the parts for training have, and those for testing."""
    images = choice.sources[0].images
    parts = [choice.values.get(split) or [split] for split in ("train", "test")]
    some = len(choice.sources) > 1 or choice.values.get("classes")
    if some or not all(part in images for listed in parts for part in listed):
        return ""
    return " + ".join(f"{sum(images[part] for part in listed):,}" for listed in parts)


def _size(choice: Choice, root: Path) -> str:
    """Size on disk: of the prepared files; an estimate (~) if the set is missing or streamed."""
    megabytes, about = 0.0, ""
    for source in choice.sources:
        prepared = store.is_prepared(root, source.name)
        manifest = store.read_manifest(store.prepared_folder(root, source.name)) if prepared else None
        if manifest and not source.streams:
            megabytes += sum(facts["bytes"] for facts in manifest["files"].values()) / 1e6
        else:
            megabytes, about = megabytes + source.megabytes * _share(manifest, source), "~"
    number, unit = (megabytes / 1000, "GB") if megabytes >= 1000 else (megabytes, "MB")
    return f"{about}{number:.1f} {unit}" if number < 10 else f"{about}{number:.0f} {unit}"


def _share(manifest: Mapping[str, Any] | None, source: sources.Source) -> float:
    """The fraction of the published images that is present; 1 before the set is prepared."""
    found = store.counts(manifest) if manifest else source.images
    return sum(found.get(part, 0) for part in source.images) / sum(source.images.values())


# --- import and verify -----------------------------------------------------------------------------------------------


def import_data(name: str, folder: Path, root: Path) -> None:
    """Prepare a data set from the files under ``folder``, and print what was found."""
    found = prepared_from(read_choice(name), "imported from a folder")
    if len(found) > 1:
        names = " and ".join(source.name for source in found)
        raise UserError(f"{name} cannot be imported from a folder, as it combines other sets; import {names}")
    prepared = sources.import_dataset(found[0].name, folder, root)
    manifest = store.read_manifest(prepared)
    print(f"imported {found[0].name} into {prepared}")
    whole = _print_counts(manifest, found[0])
    for kind, count in manifest["converted"].items():
        if count:
            print(f"  {count:,} {kind} were converted")
    for sentence in sentences(manifest.get("remarks", {})):
        print(f"  {sentence}")
    if manifest["source"].get("verified"):
        print("  the files are the published ones: their checksums agree")
    else:
        why = "their checksums were not compared, or differ" if whole else "images are missing or too many"
        print(f"warning: these may not be the published files of {name}: {why}", file=sys.stderr)


def prepared_from(choice: Choice, done: str) -> Sequence[sources.Source]:
    """The sources of a set that is neither embedded nor the user's own.

    Raises:
        UserError: if it is; ``done`` says what cannot be done with it.
    """
    if choice.own:
        way = f"it is served from where it is: dataset={choice.name} dataset.path=<path>"
        raise UserError(f"{choice.name} cannot be {done}; {way}")
    if not choice.sources:
        fit = [name for name, _ in described("dataset") if (other := read_choice(name)).sources and not other.own]
        raise UserError(f"{choice.name} cannot be {done}, as it is embedded; sets that can: {', '.join(fit)}")
    return choice.sources


def _print_counts(manifest: Mapping[str, Any], source: sources.Source) -> bool:
    """Print the number of images in each part, present and published; returns whether all are present."""
    found = store.counts(manifest)
    for part in dict.fromkeys([*source.images, *found]):
        count = found.get(part, 0)
        published = source.images.get(part, count)
        print(f"  {part}: {count:,} images" if count == published else f"  {part}: {count:,} of {published:,} images")
    return all(found.get(part) == count for part, count in source.images.items())


def verify_data(name: str, root: Path) -> None:
    """Compare prepared data with their checksums; for a streamed set also read every file of its index."""
    for source in prepared_from(read_choice(name), "verified"):
        if not store.is_prepared(root, source.name):
            way = f"trust-exp data import {source.name} <folder>"
            raise UserError(f"{source.name} is not prepared in {root}; a run prepares it, or: {way}")
        manifest = store.verify(root, source.name)
        if store.reading(manifest) != source.reading:
            raise UserError(f"{source.name} in {root} was prepared by an older version; the next run prepares it anew")
        if source.streams:
            _check_files(manifest, root)
        print(f"{source.name} in {root} is complete")
        _print_counts(manifest, source)


def _check_files(manifest: Mapping[str, Any], root: Path) -> None:
    """Decode every image of the index, and check that every label map exists.

    Raises:
        UserError: if a file is missing, damaged or changed; names the first.
    """
    import numpy as np

    from trust_exp.data.readers.images import check_images, upright_sizes

    name, folder = manifest["name"], Path(manifest["folder"])
    again = f"prepare it again with: trust-exp data import {name} <folder>"
    if not folder.is_dir():
        raise UserError(f"the images of {name} are no longer in {folder}; {again}")
    images: dict[Path, list[int]] = {}
    for part in store.counts(manifest):
        index = store.open_part(root, name, part)
        turned = index.get("orientation", np.ones(len(index["paths"]), np.uint8))
        sizes = upright_sizes(index["sizes"], turned)  # as they are stored
        facts = np.concatenate([sizes, turned[:, None]], axis=1).tolist()
        for path, known in zip(index["paths"].tolist(), facts, strict=True):
            images[folder / os.fsdecode(path)] = known  # each once, as parts may overlap
        for path in index["maps"].flat if "maps" in index else ():
            if path and not (folder / os.fsdecode(path)).is_file():
                raise UserError(f"{folder / os.fsdecode(path)} is missing; {again}")
    found = check_images(list(images))
    now = np.concatenate([found.sizes, found.orientations[:, None]], axis=1).tolist()
    for (path, before), (*size, orientation) in zip(images.items(), now, strict=True):
        if size != before[:2] or before[2] not in (1, orientation):  # where it is 1, it may not be used
            raise UserError(f"{path} has changed since {name} was prepared; {again}")


# --- show ------------------------------------------------------------------------------------------------------------


def show_data(given: argparse.Namespace) -> None:
    """Draw images of a data set with their labels, and print the path of the file."""
    check_range("--count", given.count, least=1)
    choice, out = read_choice(given.name), given.out or Path(f"{given.name}.png")
    if given.out is None and out.exists():
        raise UserError(f"{out} exists already; --out {out} overwrites it, another --out keeps it")
    check_out(out, [f".{name}" for name in FIGURES])
    for text in given.overrides:
        if not text.lstrip("+~").startswith("dataset."):
            raise UserError(f"{text!r} is not dataset.key=value")
    if state(choice, given.root).endswith("missing"):
        raise UserError(f"{given.name} is not in {given.root}; trust-exp data list says how to get it")
    from trust_exp.viz.contact_sheet import draw_contact_sheet

    data = open_data(given.name, given.root, given.overrides)
    data.prepare_data()
    for sentence in data.remarks():
        say(sentence)
    if len(data.info.shape) != 3:
        raise UserError(f"dataset={given.name} has no images to show: its samples are {data.info.shape[0]} numbers")
    batch = data.samples(given.split, chosen_rows(data, given.split, given.count))
    of_classes = f", {len(data.info.classes)} classes" if data.info.classes else ""
    title = f"{given.name}, {given.split}: {len(batch.image)} of {data.size(given.split):,} images{of_classes}"
    write_out(out, draw_contact_sheet(title, sheet(batch, data.info), out.suffix.lower()))
    print(out)


def open_data(name: str, root: Path, overrides: Sequence[str]) -> "DataModule":
    """Build the data set as a run with these overrides would."""
    with composing():
        node = to_plain(compose(f"dataset/{name}", list(overrides)), "dataset")
    options = {**check_options(node, "dataset"), "_target_": node["_target_"]}
    data: DataModule = build(options, name=name, root=root, seed=0)
    return data


def chosen_rows(data: "DataModule", split: "Split", count: int) -> "Tensor":
    """Rows to show, int64 [M]: balanced over classes and sorted by class; evenly spaced if there are no classes."""
    import torch

    from trust_exp.data.subset import balanced_subset

    labels = main_classes(data, split)
    if labels is None:
        return torch.linspace(0, data.size(split) - 1, min(count, data.size(split))).long()
    classes, labels = labels.unique(return_inverse=True)
    if len(classes) > count:
        classes = torch.linspace(0, len(classes) - 1, count).long()
        rows = torch.stack([(labels == label).nonzero()[0, 0] for label in classes])
    else:
        rows = balanced_subset(labels, min(count, len(labels)))
    return rows[labels[rows].argsort(stable=True)]


def main_classes(data: "DataModule", split: "Split") -> "Tensor | None":
    """The class of each sample, int64 [N]; for boxes the rarest class in the image; None for pixel labels."""
    import torch

    from trust_exp.data.stream import StreamDataModule

    if data.task in ("classification", "anomaly"):
        return data.served_labels(split)
    if not isinstance(data, StreamDataModule) or data.task == "segmentation":
        return None
    index = data.prepared.open(data.parent(split))
    return torch.from_numpy(rarest(index["boxlabels"], index["boxcount"]))[data.rows(split)]


def rarest(labels: "np.ndarray", counts: "np.ndarray") -> "np.ndarray":
    """For each image, its label that is rarest in the whole set, int64 [N]; -1 for an image without labels.

    Args:
        labels: int [T], image after image.
        counts: int [N], number of labels per image.
    """
    import numpy as np

    total = np.bincount(labels)
    images = np.split(labels, counts.cumsum()[:-1])
    return np.array([own[total[own].argmin()] if len(own) else -1 for own in images], np.int64)


def sheet(batch: "AnyBatch", info: "DatasetInfo") -> "Sheet":
    """The contact sheet of a batch."""
    from trust_exp.data.batch import BoxBatch, DenseBatch, MaskBatch
    from trust_exp.data.config import NOTHING
    from trust_exp.viz.contact_sheet import Labels, framed_sheet, mapped_sheet, plain_sheet

    images = (batch.image * 255).round().byte().permute(0, 2, 3, 1).expand(-1, -1, -1, 3).numpy()
    index = batch.index.tolist()
    if isinstance(batch, BoxBatch):
        boxes, labels, difficult = (part.numpy() for part in (batch.boxes, batch.label, batch.difficult))
        return framed_sheet(images, boxes, labels, difficult, info.classes, index)
    if isinstance(batch, DenseBatch):
        layers = [Labels("classes", info.classes, batch.label.numpy())] if info.classes else []
        for layer, maps in zip(info.layers, batch.concepts.unbind(1), strict=True):
            layers.append(Labels(layer.kind, layer.concepts, maps.numpy()))
        return mapped_sheet(images, layers, index)
    if isinstance(batch, MaskBatch) and batch.mask.any():
        kinds = batch.label[:, None, None].where(batch.mask, NOTHING)
        return mapped_sheet(images, [Labels("defects", info.classes, kinds.numpy())], index)
    return plain_sheet(images, [info.classes[label] for label in batch.label], index)
