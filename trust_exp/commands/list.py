"""``trust-exp list``: the choices of each group, and those that fit a given choice."""

from collections.abc import Iterator, Sequence

from rich.table import Table

from trust_exp import choices
from trust_exp.commands import Commands
from trust_exp.console import console
from trust_exp.contract import Part, misfit, misfit_of_eval, part
from trust_exp.errors import UserError, unknown
from trust_exp.recipes import models_of, recipes

GROUPS = ("method", "dataset", "model", "eval", "logger", "size", "accelerator", "hydra/launcher")
COMPARED = ("method", "model", "dataset", "eval")


def add(commands: Commands) -> None:
    """Describe the command."""
    parser = commands.add_parser("list", help="methods, data sets, models, evals, and the recipes with their models")
    parser.add_argument("group", nargs="?", help=f"only one of {', '.join((*GROUPS, 'recipe'))}")
    parser.add_argument(
        "--for",
        nargs="+",
        metavar="KEY=NAME",
        dest="wanted",
        default=[],
        help="only what fits, as in --for dataset=camvid",
    )
    parser.set_defaults(action=lambda given: list_choices(given.group, given.wanted))


def described(group: str) -> Iterator[tuple[str, str]]:
    """The choices of a group, each with the first comment of its file."""
    for name in choices.names(group):
        yield name, choices.read_choice(group, name).about


def described_recipes() -> Iterator[tuple[str, str]]:
    """The recipes, each with the models that it is for and its origin."""
    for name in recipes():
        source = str(choices.read_choice("recipe", name).values.get("recipe", ""))
        known = choices.exists("dataset", name.split("/")[1])
        yield (
            name,
            f"{', '.join(models_of(name))}: {source if known else f'{source} (its data set does not exist yet)'}",
        )


def list_choices(only: str | None, wanted: Sequence[str] = ()) -> None:
    """Print the choices; with ``wanted``, such as ``dataset=camvid``, only those that fit.

    Raises:
        UserError: if there is no such group or choice.
    """
    if only is not None and only not in (*GROUPS, "recipe"):
        raise unknown("the group", only, (*GROUPS, "recipe"))
    fixed = _read(wanted)
    shown = [group for group in COMPARED if group not in fixed] if fixed else [*GROUPS, "recipe"]
    for group in shown if only is None else (only,):
        rows = list(described_recipes() if group == "recipe" else described(group))
        if fixed and group in COMPARED:
            rows = [row for name, about in rows for row in _fitting(group, name, about, fixed)]
        _print(f"{group}=" if group != "recipe" else "recipes", rows or [("none", "nothing here fits")])


def _print(title: str, rows: Sequence[tuple[str, str]]) -> None:
    table = Table(title=title, title_justify="left", show_header=False, box=None)
    table.add_column(no_wrap=True)
    table.add_column()
    for row in rows:
        table.add_row(*row)
    console().print(table)


def _read(wanted: Sequence[str]) -> dict[str, Part]:
    """The given choices by group; ``dataset.task=`` and ``dataset.normal_class=`` set the task of the data set."""
    texts = dict(text.partition("=")[::2] for text in wanted)
    task, normal = texts.pop("dataset.task", None), texts.pop("dataset.normal_class", None)
    if unknown_keys := [key for key in texts if key not in COMPARED]:
        raise unknown("--for", unknown_keys[0], COMPARED)
    found = {group: _part(group, name) for group, name in texts.items()}
    given = {key: value for key, value in (("task", task), ("normal_class", normal)) if value is not None}
    for key, value in given.items():
        if "dataset" not in found:
            raise UserError(
                f"--for dataset.{key}={value} needs its data set: --for dataset=<name> dataset.{key}={value}"
            )
        found["dataset"] = _part("dataset", found["dataset"].name, **given)
    return found


def _part(group: str, name: str, **given: str) -> Part:
    choice = choices.read_choice(group, name)
    return part(group, name, choice.schema, {**choice.values, **given})


def _fitting(group: str, name: str, about: str, fixed: dict[str, Part]) -> list[tuple[str, str]]:
    """The row of a choice that fits; of a data set also if one of its classes is to be the normal one."""
    if _fits(_part(group, name), fixed):
        return [(name, about)]
    one_normal = group == "dataset" and _part(group, name).is_for("classification")
    if one_normal and _fits(_part(group, name, normal_class="0"), fixed):
        return [(name, f"{about}; with dataset.normal_class=<a class>")]
    return []


def _fits(choice: Part, fixed: dict[str, Part]) -> bool:
    """Whether a choice forms a valid run with the fixed choices and some choice of each other group."""
    candidates = {**dict.fromkeys(COMPARED), **fixed, choice.group: choice}
    asked = candidates.pop("eval")
    pools = [[found] if found else _all(other) for other, found in candidates.items()]
    return any(
        not misfit(method, model, dataset, ("trained",))
        and (asked is None or not misfit_of_eval(asked, method, model, dataset))
        for method in pools[0]
        for model in pools[1]
        for dataset in pools[2]
    )


def _all(group: str) -> list[Part]:
    """One choice for each distinct combination of tasks, needs and gives, which is all that fitting depends on."""
    parts = (_part(group, name) for name in choices.names(group))
    return list({(each.tasks, each.needs, each.gives): each for each in parts}.values())
