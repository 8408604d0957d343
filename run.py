"""``python run.py method=cll dataset=digits`` trains, certifies and reports; ``trust-exp list`` shows the choices."""

import os
import sys
from typing import Any

import hydra
from omegaconf import DictConfig

from trust_exp.arguments import arranged
from trust_exp.compose import register, with_task
from trust_exp.console import print_anywhere
from trust_exp.jobs import start
from trust_exp.messages import exit_code_of
from trust_exp.references import quoted
from trust_exp.runs import with_stored_overrides
from trust_exp.schema import CONF

codes: list[int] = []


composer = register()


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def run(config: DictConfig) -> Any:
    """One job; returns what a sweeper optimises."""
    returned: list[Any] = []
    codes.append(exit_code_of(lambda: returned.append(start(config, composer))))
    if codes[-1] == 130:
        sys.exit(130)  # and not on to the next job of a sweep
    return returned[0] if returned else None


def main() -> None:
    """Compose and run; what Hydra finds wrong is said in one sentence."""
    print_anywhere()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra raises its errors to us instead of printing them
    words = [word if word.startswith("-") else quoted(word) for word in sys.argv[1:]]
    if not {"-m", "--multirun"} & set(words):  # a launcher does it for each job of a sweep
        words = with_task(with_stored_overrides(words))
    sys.argv[1:] = arranged(words)
    run()


if __name__ == "__main__":
    sys.exit(exit_code_of(main) or max(codes, default=0))
