"""The tool of make mutation: what it changes, and what it makes of tests that fail, pass or never end."""

import pytest

from tests import mutation
from tests.mutation import Mutant, finished, mutants_of, register_profile, sample, start

SOURCE = '''
"""A docstring with 1 number."""

LIMIT: float = 1e-6


def gap(x: "Tensor", low=0, *, kind: str = "ce") -> "Tensor":
    if low < 0 and kind:
        raise ValueError(f"low must be at least 0; got {low + 1}")
    for k in range(low):
        x -= (x.detach() + é(k)).clamp(min=LIMIT)
    return -x
'''

EXPECTED = """
LIMIT: float = 0.0
LIMIT: float = 0.001
def gap(x: "Tensor", low=1, *, kind: str = "ce") -> "Tensor":
def gap(x: "Tensor", low=0, *, kind: str = 'mutant') -> "Tensor":
if (not (low < 0 and kind)):
if (low < 0 or kind):
if kind:
if (low < 0):
if (low <= 0) and kind:
if (low >= 0) and kind:
if low < 1 and kind:
pass
for k in range(low + 1):
for k in range(low - 1):
pass
x += (x.detach() + é(k)).clamp(min=LIMIT)
x -= (x.detach() + é(k))
x -= (x.detach() + é(k)).clamp(max=LIMIT)
x -= ((x.detach() - é(k))).clamp(min=LIMIT)
x -= (x + é(k)).clamp(min=LIMIT)
return None
return x
"""


def test_what_is_changed():
    found = [line[2:] for mutant in mutants_of("gap.py", SOURCE) for line in mutant.diff.splitlines() if line[0] == "+"]
    assert sorted(found) == sorted(EXPECTED.strip().splitlines())


def test_mutants_are_programs_with_names_of_their_own():
    mutants = mutants_of("gap.py", SOURCE)
    for mutant in mutants:
        compile(mutant.source, mutant.path, "exec")
    assert len({mutant.source for mutant in mutants} | {SOURCE}) == len(mutants) + 1
    assert len({mutant.key for mutant in mutants}) == len(mutants)


def test_a_name_outlives_changes_elsewhere():
    names = {mutant.key for mutant in mutants_of("gap.py", SOURCE)}
    assert names < {mutant.key for mutant in mutants_of("gap.py", "\nMORE = 3\n" + SOURCE)}


def test_a_larger_sample_contains_the_smaller_one():
    mutants = mutants_of("gap.py", SOURCE)
    assert sample(mutants, 9, 1)[:5] == sample(mutants[::-1], 5, 1)
    assert sample(mutants, 5, 1) != sample(mutants, 5, 2)


def test_the_tests_of_a_module():
    assert mutation.tests_of("trust_exp/lipschitz/norms.py") == ["tests/lipschitz/test_norms.py"]
    assert mutation.tests_of("trust_exp/attacks/auto_pgd.py")[0] == "tests/attacks/test_auto_pgd.py"
    assert mutation.tests_of("trust_exp/methods/prototype/core.py") == ["tests/methods/test_protopnet.py"]


def test_a_module_has_tests_of_its_name():
    """Else all tests of its package are run against each of its mutants."""
    for path in sorted({mutant.path for mutant in mutation.all_mutants()}):
        package, name = path.removesuffix(".py").split("/")[-2:]
        if name not in ("core", "__init__"):
            assert mutation.tests_of(path)[0] == f"tests/{package}/test_{name}.py"


COUNT = """
def count(n):
    k = 0
    while k < n:
        k += 1
    return k
"""


@pytest.mark.slow  # each starts a process that imports torch
@pytest.mark.parametrize(
    ("change", "code", "failed"),
    [
        (None, 0, None),
        ("k < n", 0, None),
        ("k <= n", 1, "test_count.py::test_count"),
        ("k > n", 1, "test_count.py::test_count"),
        ("k < n or True", -24, None),  # SIGXCPU: it never ends
    ],
)
def test_a_fork_tells_what_the_tests_say(tmp_path, monkeypatch, change, code, failed):
    (tmp_path / "counted.py").write_text(COUNT)
    test = tmp_path / "test_count.py"
    test.write_text("from counted import count\n\n\ndef test_count():\n    assert count(3) == 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mutation, "ROOT", tmp_path)
    monkeypatch.setattr(mutation, "KEPT", tmp_path)
    register_profile()
    mutant = change and Mutant("counted.py", 4, "", COUNT.replace("k < n", change), "", "key")
    pid, run = start(mutant, [str(test)], {}, limit=2 if code < 0 else 60)
    ((ended, status, seconds, noted),) = finished({pid: run})
    assert ended.mutant == mutant
    assert status == code
    assert (noted.get("failed") or "").endswith(failed or "")
    assert noted.get("failed") or not failed
    assert seconds > 0
