"""The configurations that the rows of a table stand for: composed from their files at a size, and checked.

Imports no torch.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from trust_exp.compose import Composer, composed, composing
from trust_exp.errors import UserError, unknown
from trust_exp.messages import sentence_for
from trust_exp.results.experiments import Printed, missing_choices, read
from trust_exp.schema import CONF


def without_hydra(overrides: Iterable[str]) -> list[str]:
    """The overrides that say what is run, without those of hydra/... and hydra. that say how."""
    return [text for text in overrides if not text.lstrip("+~").startswith(("hydra/", "hydra."))]


def compose_row(
    row: Printed, size: str, overrides: Sequence[str] = (), composer: Composer | None = None
) -> dict[str, Any]:
    """The checked configuration of a row at a size; within ``composing()``.

    Args:
        composer: remembers the runs that several rows build on.

    Raises:
        UserError: if it cannot run, as it chooses what does not exist (yet) or sets what cannot be.
    """
    if lost := missing_choices(row):
        raise UserError(lost)
    try:
        given = [f"+experiments/{row.table}={row.name}", f"size={size}", *without_hydra(overrides)]
        return (composer or Composer()).check(composed(given))
    except Exception as error:
        sentence = sentence_for(error)
        if sentence is None:
            raise
        raise UserError(sentence) from error


def check_row_overrides(name: str, size: str, overrides: Sequence[str]) -> None:
    """Raise UserError for overrides with which no row can be composed, though one can be without them."""
    refused: UserError | None = None
    composer = Composer()
    with composing():
        for row in read(name).rows if overrides else ():
            try:
                compose_row(row, size, overrides, composer)
                return
            except UserError as error:
                refused = refused or (None if missing_choices(row) else error)
    if refused is not None:
        raise refused


def check_size(size: str) -> None:
    """Raise UserError unless there is such a size."""
    known = [path.stem for path in (CONF / "size").glob("*.yaml")]
    if size not in known:
        raise unknown("the size", size, known)
