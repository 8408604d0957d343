"""Which files of conf/ follow from what is chosen: the recipe of a run, and what its parts need at a size. No torch.

A recipe holds the settings of a paper for a method, a data set and the models that it names (``recipe_for``).
"""

from collections.abc import Mapping
from typing import Any

from trust_exp import choices
from trust_exp.errors import UserError
from trust_exp.schema import CONF

NONE = "none"  # the choice of nothing


def recipes() -> list[str]:
    """All recipes: ``<method>/<dataset>``, and ``<method>/<dataset>/<model>`` for further models of a pair."""
    folder = CONF / "recipe"
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))


def models_of(recipe: str) -> tuple[str, ...]:
    """The models that a recipe is for.

    Raises:
        UserError: if it names none.
    """
    models = choices.read_choice("recipe", recipe).values.get("recipe_for")
    if not models:
        raise UserError(f"conf/recipe/{recipe}.yaml must name the models that it is for: recipe_for: [conv_4c3f]")
    return tuple(models)


def recipes_of(method: str, dataset: str) -> list[str]:
    """The recipes of a method and a data set, whichever models they are for."""
    pair = f"{method}/{dataset}"
    return [recipe for recipe in recipes() if recipe == pair or recipe.startswith(f"{pair}/")]


def recipe_for(method: str, dataset: str, model: str) -> str:
    """The recipe of a run; ``none`` if its method, data set and model have none."""
    if not choices.exists("model", model):
        return NONE  # Hydra says that it is misspelt
    network = choices.read_choice("model", model).name
    return next((recipe for recipe in recipes_of(method, dataset) if network in models_of(recipe)), NONE)


def recipe_line(config: Mapping[str, Any]) -> str:
    """Where the settings of a checked configuration come from, in one line."""
    if config.get("recipe"):
        return str(config["recipe"])
    method, dataset = ((config.get(group) or {}).get("name") for group in ("method", "dataset"))
    if not method or not dataset:
        return "unknown"  # of a result.json that was changed
    pair = f"{method}/{dataset}"
    models = [model for recipe in recipes_of(method, dataset) for model in models_of(recipe)]
    if not models:
        return "none for this pair; the defaults of the method and the data set hold"
    return f"none; {pair} is for {', '.join(models)}"


def settings_at_size(group: str, choice: str, size: str) -> str:
    """The file below ``conf/<group>/size`` with what a choice needs at a size; ``none`` if it needs nothing.

    It is called after the choice, else after its schema or the nearest one that this extends.
    """
    if not choices.exists(group, choice):
        return NONE
    found = choices.read_choice(group, choice)
    called = [found.name, *(schema.__name__ for schema in getattr(found.schema, "__mro__", ()))]
    return next((f"{size}/{name}" for name in called if choices.exists(f"{group}/size", f"{size}/{name}")), NONE)
