"""``trust-exp list``: what can be chosen."""

from collections.abc import Iterator

from rich.table import Table

from trust_exp.commands import Commands
from trust_exp.errors import UserError, unknown
from trust_exp.results.table import console
from trust_exp.schema import CONF

GROUPS = ("method", "dataset", "model", "eval", "logger", "size", "accelerator", "hydra/launcher")


def add(commands: Commands) -> None:
    """Describe the command."""
    parser = commands.add_parser("list", help="methods, data sets, models, evals, and which pairs have recipes")
    parser.add_argument("group", nargs="?", help=f"only one of {', '.join((*GROUPS, 'recipe'))}")
    parser.set_defaults(action=lambda given: list_choices(given.group))


def choices(group: str) -> Iterator[tuple[str, str]]:
    """Names in a folder of conf/, each with the first comment of its file."""
    if not (CONF / group).is_dir():
        raise UserError(f"{CONF} is missing; install trust_exp from its checkout: pip install -e .")
    for path in sorted((CONF / group).glob("*.yaml")):
        comments = [line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#")]
        yield path.stem, next((comment for comment in comments if not comment.startswith("@package")), "")


def recipes() -> Iterator[tuple[str, str]]:
    """Pairs method/dataset that have a recipe, with where it comes from."""
    for path in sorted((CONF / "recipe").glob("*/*.yaml")):
        lines = path.read_text().splitlines()
        known = (CONF / "dataset" / path.name).exists()
        source = next((line.partition(":")[2].strip() for line in lines if line.startswith("recipe:")), "")
        yield f"{path.parent.name}/{path.stem}", source if known else f"{source} (its data set is to come)"


def list_choices(only: str | None) -> None:
    """Print what can be chosen."""
    if only is not None and only not in (*GROUPS, "recipe"):
        raise unknown("the group", only, (*GROUPS, "recipe"))
    for group in (*GROUPS, "recipe") if only is None else (only,):
        table = Table(
            title=f"{group}=" if group != "recipe" else "recipes", title_justify="left", show_header=False, box=None
        )
        table.add_column(no_wrap=True)
        table.add_column()
        for row in recipes() if group == "recipe" else choices(group):
            table.add_row(*row)
        console().print(table)
