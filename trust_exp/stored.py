"""What the values in a run's files must be, so that whoever reads them need not doubt it. Imports no torch."""

from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[Any], bool]
LARGEST = 10**300  # of whole numbers, so that each has a float


def text(value: Any) -> bool:
    return isinstance(value, str)


def number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) <= LARGEST)


def count(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value <= LARGEST


def group(value: Any) -> bool:
    return isinstance(value, dict)


def maybe(check: Check) -> Check:
    """None, or what passes."""
    return lambda value: value is None or check(value)


def list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def dict_of(check: Check) -> Check:
    """An object whose values pass."""
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def record(**checks: Check) -> Check:
    """An object in which these keys pass; one that is not there counts as None."""
    return lambda value: isinstance(value, dict) and all(check(value.get(key)) for key, check in checks.items())


def whole(**checks: Check) -> Check:
    """The same of an object that has all of these keys."""
    return lambda value: isinstance(value, dict) and all(key in value and checks[key](value[key]) for key in checks)


def interval(value: Any) -> bool:
    return value is None or (isinstance(value, list) and len(value) == 2 and all(map(number, value)))


NAMED = record(name=text)
ROW = whole(suite=text, metric=text, value=maybe(number), unit=text, n=maybe(number), interval=interval, detail=group)
RESULT: Mapping[str, Check] = {
    "run_id": text,
    "name": text,
    "status": text,
    "error": maybe(text),
    "started": maybe(text),
    "ended": maybe(text),
    "config": record(method=maybe(NAMED), model=maybe(NAMED), dataset=maybe(NAMED)),
    "metrics": dict_of(maybe(number)),
    "rows": list_of(ROW),
    "evals": dict_of(
        record(id=maybe(text), config=maybe(group), environment=maybe(group), figures=maybe(list_of(text)))
    ),
    "seconds": dict_of(number),
    "steps": maybe(number),
    "samples_per_second": maybe(number),
    "peak_memory_mb": maybe(number),
    "environment": group,
    "data": maybe(group),
    "further_data": dict_of(maybe(group)),
    "facts": record(difficulty=maybe(dict_of(record(classes=maybe(dict_of(number)))))),
    "figures": list_of(text),
    "classes": maybe(count),
    "input_shape": maybe(list_of(count)),
    "watched": maybe(list_of(record(epoch=count, step=maybe(number), split=text, metrics=dict_of(maybe(number))))),
}
PART = record(name=text, _schema_=text)
CONFIG: Mapping[str, Check] = {
    "overrides": list_of(text),
    "config": record(
        method=maybe(PART), model=maybe(PART), dataset=maybe(PART), seed=maybe(count), paths=maybe(dict_of(text))
    ),
}
FILES = {"result.json": RESULT, "config.json": CONFIG}


def malformed(name: str, values: Mapping[str, Any], needed: tuple[str, ...] = ()) -> list[str]:
    """The keys in one of a run's files that no run writes so; among them those that are not there but ``needed``."""
    checks = FILES.get(name, {})
    return [key for key, check in checks.items() if (key in values or key in needed) and not check(values.get(key))]
