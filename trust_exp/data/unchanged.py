"""Whether data are still what a run has seen. No torch: a run that is done asks it each time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trust_exp.data import sources, store
from trust_exp.data.stamps import GONE, changes


def change_in(node: Mapping[str, Any], seen: Mapping[str, Any], root: str | Path) -> str:
    """What has happened to the data of a run since it has seen them, as a clause; empty if nothing has.

    Data that cannot be found have not changed: what was measured on them stays.

    Args:
        node: of the data set in the run's configuration.
        seen: its facts as the run recorded them, see ``store.facts``; of a set made of several, by their names.
        root: folder of all data.

    Raises:
        UserError: if the files were changed to something that is no data set.
    """
    own = str(node.get("source") or node.get("name"))
    known = {own: seen} if "files" in seen else seen
    for name, facts in known.items():
        with_files = isinstance(facts, Mapping) and "files" in facts
        if with_files and (change := _change_in(name, node.get("path"), facts, Path(root))):
            return change
    return ""


def _change_in(name: str, path: str | None, seen: Mapping[str, Any], root: Path) -> str:
    if name not in sources.all_sources() or (path is not None and not Path(path).exists()):
        return ""
    source = sources.find_source(name).at(path)
    before = store.prepared_folder(root, str(seen.get("prepared") or source.name))
    served_from = store.read_manifest(before).get("folder") if store.is_prepared(root, before.name) else None
    if source.streams and served_from and not Path(served_from).exists():
        return ""
    # The pixels of other sets were copied, so that their files may go.
    found = [(file, what) for file, what in changes(before) if source.streams or what != GONE]
    if found:
        return _sentence(found)
    read_anew = store.reading(seen) != source.reading
    if read_anew or source.name != before.name:  # or a user's own files: there is a new one, or one has another time
        if not (path or served_from):
            return ""
        manifest = sources.ensure(source, root, path)
    elif served_from:
        manifest = store.read_manifest(before)
    else:
        return ""
    if not store.differ(seen, store.facts(manifest)):
        return ""
    where = path or served_from or before
    return f"trust_exp reads {where} in another way" if read_anew else f"{where} holds other files"


def _sentence(found: list[tuple[str, str]]) -> str:
    (file, what), more = found[0], len(found) - 1
    return f"{file} {what}{f' (and {more} more files)' if more else ''}"
