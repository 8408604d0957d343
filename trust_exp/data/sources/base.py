"""Sources: facts about published data sets, and how a folder with their files is read. No torch."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from trust_exp.data.fetch import Remote
from trust_exp.data.store import Writer
from trust_exp.tasks import Task


class Source(ABC):
    """A published data set.

    A subclass in this package with a ``name`` is found by it: ``conf/dataset/<name>.yaml`` and its class are all that
    a data set needs.
    """

    name: ClassVar[str]
    task: ClassVar[Task] = "classification"
    images: ClassVar[Mapping[str, int]]  # published number of images of each part
    megabytes: ClassVar[int]  # on disk, prepared; for sets that are served from their files: of the files
    licence: ClassVar[str]  # its name, or the owners' terms in a few words
    homepage: ClassVar[str]
    layout: ClassVar[str]  # the files that a folder must hold, in a few words
    folders: ClassVar[tuple[str, ...]] = ()  # names that others give the set's folder under the data folder
    remotes: ClassVar[tuple[Remote, ...]] = ()  # archives that may be downloaded without signing anything
    streams: ClassVar[bool] = False  # served from its files: they must stay where they are
    reading: ClassVar[int] = 1  # rises where the same files become other data: sets that are prepared are so anew

    def at(self, path: str | Path | None) -> "Source":
        """The source for ``path``; where users bring their own data, each path has a source of its own."""
        return self

    @abstractmethod
    def check(self, folder: Path) -> None:
        """Check that ``folder`` or a folder in it holds the set; looks at names only.

        Raises:
            UserError: naming the files that are missing.
        """

    @abstractmethod
    def read(self, folder: Path, into: Writer) -> None:
        """Check everything in ``folder``, and fill ``into``: arrays (of streamed sets: an index), info and source.

        Streamed sets write ``paths`` (bytes [N], relative to the folder) and ``sizes`` (int32 [N, 2]: height, width),
        and ``labels``; others ``images`` (uint8 [N, C, H, W]) and ``labels``. Labels of a classification are uint8 or
        int16 [N]. Images are served as they are stored; those that only have a class stand upright: where EXIF turns
        one, ``orientation`` is its number (uint8 [N], 1 to 8), and ``sizes`` are those of the image that is served.
        What is left out is counted in ``into.remarks``.

        Raises:
            UserError: naming the file that is missing or wrong.
        """

    def maps(self, folder: Path, files: np.ndarray) -> np.ndarray:
        """The label maps of one image of a streamed dense set, from its row of ``maps`` (bytes [K], file names).

        Returns:
            int16 [M, H, W]: the map of ``info.classes`` if there are any, then one for each of ``info.layers``.
        """
        raise NotImplementedError(f"{self.name} has no label maps")

    def facts(self) -> dict[str, Any]:
        """The facts that ``trust-exp data list`` shows."""
        return {
            "task": self.task,
            "images": dict(self.images),
            "megabytes": self.megabytes,
            "licence": self.licence,
            "homepage": self.homepage,
        }
