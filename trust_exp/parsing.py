"""JSON from files that another program or a person may have written. Imports no torch."""

import json
from typing import Any

LEVELS = 100  # of lists and objects in one another; ours have six


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: if it is none, or is nested so deeply that those who look into it would fail.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level = [value]
    for _ in range(LEVELS):
        found = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level = [one for inner in found for one in inner if isinstance(one, dict | list)]
        if not level:
            return value
    raise ValueError("it is nested too deeply")
