"""``trust-exp data``: prepare data that are already on disk, and check what is prepared."""

import sys
from pathlib import Path

from trust_exp.commands import Commands, add_root
from trust_exp.commands.list import choices
from trust_exp.data import sources, store
from trust_exp.errors import unknown


def add(commands: Commands) -> None:
    """Describe the command."""
    data = commands.add_parser("data", help="import and verify data sets").add_subparsers(
        dest="what", required=True, metavar="import|verify"
    )
    importing = data.add_parser("import", help="check files that are on disk and prepare them")
    importing.add_argument("name", help="the data set, e.g. mnist")
    importing.add_argument("folder", type=Path, help="where its files are")
    add_root(importing)
    importing.set_defaults(action=lambda given: import_data(given.name, given.folder, given.root))
    verifying = data.add_parser("verify", help="compare a prepared set with its checksums")
    verifying.add_argument("name", help="the data set, e.g. mnist")
    add_root(verifying)
    verifying.set_defaults(action=lambda given: verify_data(given.name, given.root))


def import_data(name: str, folder: Path, root: Path) -> None:
    """Prepare a data set from the files under ``folder``."""
    known = [choice for choice, _ in choices("dataset")]
    if name not in known:
        raise unknown("the data set", name, known)
    prepared = sources.import_dataset(name, folder, root)
    print(f"imported {name} into {prepared}")
    if not store.read_manifest(prepared)["source"].get("verified"):
        print(f"warning: these are not the known files of {name}; their checksums differ", file=sys.stderr)


def verify_data(name: str, root: Path) -> None:
    """Compare every file of a prepared set with its checksum."""
    store.verify(root, name)
    print(f"{name} in {root} is whole")
