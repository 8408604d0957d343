"""Which data are on disk, and how a folder of files becomes a prepared set. No torch: listing must be quick."""

from pathlib import Path

from trust_exp.data import idx, store
from trust_exp.errors import UserError

EMBEDDED = frozenset({"digits", "two_moons"})


def is_present(name: str, root: str | Path) -> bool:
    """Whether a run with this data set would find its data without a download; looks at no contents."""
    if name in EMBEDDED or store.is_prepared(root, name):
        return True
    return name in idx.SETS and idx.raw_folder(name, root) is not None


def import_dataset(name: str, folder: str | Path, root: str | Path) -> Path:
    """Check the files of a data set under ``folder`` and prepare them under ``root``; returns the prepared folder.

    Raises:
        UserError: if the set is not one that can be imported, or its files are missing or wrong.
    """
    if name not in idx.SETS:
        raise UserError(f"{name} cannot be imported from a folder; sets that can: {', '.join(sorted(idx.SETS))}")
    return idx.import_idx(name, folder, root)
