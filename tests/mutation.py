"""Mutation testing of the maths: small faults, one at a time, that a test should notice.

    python -m tests.mutation --number 400 --seed 0 --jobs 2

One parent imports torch; each mutant is a fork of it that runs the tests of its module up to the first that fails. The
results are kept, and the next call goes on where the last one stopped. See docs/mutation.md.
"""

import argparse
import ast
import copy
import difflib
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import resource
import signal
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
KEPT = ROOT / ".mutation"
RESULTS = KEPT / "results.jsonl"
BASELINES = KEPT / "baselines.json"
REASONS = ROOT / "tests/surviving_mutants.toml"  # why survivors live: equivalent, or not killed
PLACES = ("attacks/*.py", "lipschitz/*.py", "explain/*.py", "metrics/*.py", "methods/*/core.py")

# What tests import, so that forks need not; nothing that is changed.
HEAVY = (
    "pytest",
    "torch",
    "torchvision",
    "lightning.pytorch",
    "torchmetrics",
    "timm",
    "hydra",
    "hypothesis.extra.numpy",
    "sklearn.cluster",
    "sklearn.datasets",
    "sklearn.decomposition",
    "scipy.optimize",
    "scipy.stats",
    "cvxpy",
    "captum.attr",
    "pyautoattack",
    "tests.conftest",
)

# Plugins by name: to look for them takes longer than many a test.
OPTIONS = ("-x", "-q", "--tb=no", "-p", "no:cacheprovider", "-p", "pytest_timeout", "-p", "_hypothesis_pytestplugin")
OPTIONS += ("--hypothesis-profile=mutants",)

MEMORY = 6 * 2**30  # bytes; a mutant that takes more is stopped
PATIENCE = 5  # times as long as the tests take without a mutant; a mutant that takes longer is stopped
LEAST_PATIENCE = 60  # seconds of CPU time

# --- mutants --------------------------------------------------------------------------------------------------------

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
}
PARTNERS = (
    ("min", "max"),
    ("amin", "amax"),
    ("argmin", "argmax"),
    ("minimum", "maximum"),
    ("fmin", "fmax"),
    ("clamp_min", "clamp_max"),
    ("any", "all"),
    ("floor", "ceil"),
    ("gt", "le"),
    ("sum", "mean"),
    ("zeros_like", "ones_like"),
    ("rand", "randn"),
)
BUILTIN = {"min", "max", "any", "all"}
OTHER_NAME = {a: b for pair in PARTNERS for a, b in (pair, pair[::-1])}
OTHER_BOUND = {"min": "max", "max": "min"}
DROPPED = {"detach", "clone", "abs", "sqrt", "square", "sign", "clamp", "clamp_", "clamp_min", "clamp_max", "flip"}
DROPPED |= {"double", "float", "to", "nan_to_num", "masked_fill", "requires_grad_", "eval", "t", "exp", "log"}
DROPPED |= {"reciprocal", "contiguous", "masked_fill", "copy"}
COMMUTE = {"min", "max", "minimum", "maximum", "fmin", "fmax", "isinstance", "range", "add", "cast", "promote_types"}
TINY = 1e-4  # smaller constants are guards against a division by zero or allowances for rounding


@dataclass(frozen=True)
class Mutant:
    """A module with one small change.

    Attributes:
        path: of the module, from the root.
        line: where the change begins.
        kind: what was changed, in two or three words.
        source: of the whole module, with the change.
        diff: the changed lines, "- " and "+ ".
        key: names the mutant as long as its function keeps its name and its changed lines their text.
    """

    path: str
    line: int
    kind: str
    source: str
    diff: str
    key: str


def mutants_of(path: str, source: str) -> list[Mutant]:
    """All mutants of a module, in the order of its text."""
    lines = source.splitlines()
    found, twins = [], Counter[str]()
    for scope, node, kind, new in _changes(ast.parse(source)):
        text = ast.unparse(ast.fix_missing_locations(new))
        if not isinstance(new, ast.stmt | ast.Slice | ast.Constant | ast.Name | ast.Call | ast.Attribute):
            text = f"({text})"
        old = lines[node.lineno - 1 : node.end_lineno]
        # offsets are in bytes
        before, after = old[0].encode()[: node.col_offset].decode(), old[-1].encode()[node.end_col_offset :].decode()
        changed = (before + text + after).splitlines()
        if changed == old:
            continue
        compared = list(difflib.ndiff(old, changed))
        diff = "\n".join(f"{line[:2]}{line[2:].strip()}" for line in compared if line[0] in "+-")
        name = f"{path} {scope} {diff}"
        key = hashlib.sha256(f"{name} {twins[name]}".encode()).hexdigest()[:12]
        twins[name] += 1
        mutated = "\n".join((*lines[: node.lineno - 1], *changed, *lines[node.end_lineno :], ""))
        found.append(Mutant(path, node.lineno, kind, mutated, diff, key))
    return found


def sample(mutants: Sequence[Mutant], number: int, seed: int) -> list[Mutant]:
    """A random sample; a larger one contains it, and a change elsewhere in the code leaves the rest of it alone."""
    return sorted(mutants, key=lambda mutant: hashlib.sha256(f"{seed} {mutant.key}".encode()).digest())[:number]


def all_mutants() -> list[Mutant]:
    paths = sorted(path for place in PLACES for path in (ROOT / "trust_exp").glob(place) if path.name != "__init__.py")
    return [mutant for path in paths for mutant in mutants_of(str(path.relative_to(ROOT)), path.read_text())]


def _changes(tree: ast.Module) -> Iterator[tuple[str, Any, str, ast.AST]]:
    """(function, node, kind of change, what to put in its place) of all places where a fault can matter."""

    def visit(node: ast.AST, scope: str) -> Iterator[tuple[str, Any, str, ast.AST]]:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            scope = f"{scope}.{node.name}"
        if isinstance(node, ast.arguments):
            defaults = [value for value in (*node.defaults, *node.kw_defaults) if value is not None]
            for value in defaults:
                yield from ((scope, value, kind, new) for kind, new in _other_default(value))
        for test in _tests(node):
            yield scope, test, "negated condition", ast.UnaryOp(ast.Not(), test)
        yield from ((scope, node, kind, new) for kind, new in _replacements(node))
        for child in _children(node):
            yield from visit(child, scope)

    for statement in tree.body:
        yield from visit(statement, "")


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """The parts of a node that are computed; not annotations, decorators, messages and names of types."""
    match node:
        case ast.JoinedStr() | ast.Raise() | ast.Import() | ast.ImportFrom():
            return
        case ast.Expr(value=ast.Constant()):  # a docstring
            return
        case ast.Assign(targets=[ast.Name(id=name)]) if name[:1].isupper() and not name.isupper():  # a type
            return
        case ast.Call(func=ast.Name(id="cast" | "isinstance") | ast.Attribute(value=ast.Name(id="log"))):
            return
        case ast.AnnAssign():
            yield from () if node.value is None else (node.value,)
        case ast.FunctionDef():
            yield from (node.args, *node.body)
        case ast.ClassDef():
            yield from node.body
        case ast.arguments():
            yield from (value for value in (*node.defaults, *node.kw_defaults) if value is not None)
        case ast.Call():
            yield from (node.func, *node.args, *(each.value for each in node.keywords if each.arg != "strict"))
        case _:
            yield from ast.iter_child_nodes(node)


def _with(node: ast.AST, **fields: Any) -> Any:
    other = copy.copy(node)
    for name, value in fields.items():
        setattr(other, name, value)
    return other


def _without(items: Sequence[Any], place: int) -> list[Any]:
    return [*items[:place], *items[place + 1 :]]


def _plus(node: ast.expr, number: int) -> ast.expr:
    return ast.BinOp(node, ast.Add() if number > 0 else ast.Sub(), ast.Constant(abs(number)))


def _tests(node: ast.AST) -> list[ast.expr]:
    """Conditions; comparisons and negations have mutants of their own that say the opposite."""
    tests = node.ifs if isinstance(node, ast.comprehension) else [getattr(node, "test", None)]
    return [
        test for test in tests if isinstance(test, ast.Name | ast.Attribute | ast.Call | ast.BoolOp | ast.NamedExpr)
    ]


def _other_default(node: ast.expr) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, str)):
        yield "default argument", ast.Constant("mutant")


def _replacements(node: Any) -> Iterator[tuple[str, ast.AST]]:
    match node:
        case ast.Compare(ops=ops):
            for place, op in enumerate(ops):
                for other in COMPARISONS[type(op)]:
                    yield "comparison", _with(node, ops=[*ops[:place], other(), *ops[place + 1 :]])
        case ast.BinOp(op=op) if type(op) in ARITHMETIC:
            yield "arithmetic", _with(node, op=ARITHMETIC[type(op)]())
        case ast.BoolOp(op=op, values=values):
            yield "and, or", _with(node, op=ast.Or() if isinstance(op, ast.And) else ast.And())
            for place in range(len(values)):
                rest = _without(values, place)
                yield "operand of and, or", rest[0] if len(rest) == 1 else _with(node, values=rest)
        case ast.UnaryOp(op=ast.Not() | ast.Invert() | ast.USub(), operand=operand):
            yield "sign or not", operand
        case ast.Constant(value=value):
            yield from (("constant", ast.Constant(other)) for other in _other_numbers(value))
        case ast.Slice(lower=lower, upper=upper):
            for name, bound in (("lower", lower), ("upper", upper)):
                if bound is not None and not isinstance(bound, ast.Constant):
                    yield "off by one", _with(node, **{name: _plus(bound, 1)})
        case ast.Call():
            yield from _other_calls(node)
        case ast.Return(value=value) if value is not None and not isinstance(value, ast.Constant):
            yield "returned value", _with(node, value=ast.Constant(None))
            if isinstance(value, ast.Tuple) and len(value.elts) > 1:
                swapped = [value.elts[1], value.elts[0], *value.elts[2:]]
                yield "returned value", _with(node, value=_with(value, elts=swapped))
        case ast.Raise() | ast.Break() | ast.Continue():
            yield "removed statement", ast.Pass()
        case ast.Expr(value=ast.Constant() | ast.Yield()):
            pass
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id="log")))):
            pass
        case ast.Expr():
            yield "removed statement", ast.Pass()
        case ast.AugAssign(op=op):
            yield "removed statement", ast.Pass()
            if type(op) in ARITHMETIC:
                yield "arithmetic", _with(node, op=ARITHMETIC[type(op)]())
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield "removed statement", ast.Pass()


def _other_numbers(value: object) -> Iterator[float]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield value + 1
        if value > 0:
            yield value - 1
    elif isinstance(value, float):
        if value == 0:
            yield 1.0
        elif value < TINY:
            yield from (0.0, value * 1000)
        else:
            yield from (value / 2, value * 2)


def _other_calls(node: ast.Call) -> Iterator[tuple[str, ast.AST]]:
    function, arguments = node.func, node.args
    name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
    if name in OTHER_NAME and (isinstance(function, ast.Attribute) or name in BUILTIN):
        renamed = _with(function, **{"id" if isinstance(function, ast.Name) else "attr": OTHER_NAME[name]})
        yield f"{name}, {OTHER_NAME[name]}", _with(node, func=renamed)
    if isinstance(function, ast.Attribute) and name in DROPPED and not _is_module(function.value):
        yield f"removed {name}", function.value
    for place, keyword in enumerate(node.keywords):
        if name == "clamp" and keyword.arg in OTHER_BOUND:
            other = _with(keyword, arg=OTHER_BOUND[keyword.arg])
            yield "clamp bound", _with(node, keywords=[*node.keywords[:place], other, *node.keywords[place + 1 :]])
    if name == "range":
        for place, argument in enumerate(arguments):
            for number in (1, -1):
                yield (
                    "off by one",
                    _with(node, args=[*arguments[:place], _plus(argument, number), *arguments[place + 1 :]]),
                )
    plain = [argument for argument in arguments[-2:] if not isinstance(argument, ast.Starred)]
    if len(plain) == 2 and name not in COMMUTE and ast.dump(plain[0]) != ast.dump(plain[1]):
        yield "swapped arguments", _with(node, args=[*arguments[:-2], arguments[-1], arguments[-2]])


def _is_module(node: ast.expr) -> bool:
    """Whether this is ``torch``, ``F``, ``torch.linalg``, ...: their functions have no object to fall back on."""
    names = {"torch", "F", "np", "math", "nn", "cvxpy"}
    return (isinstance(node, ast.Name) and node.id in names) or (
        isinstance(node, ast.Attribute) and _is_module(node.value)
    )


# --- tests ----------------------------------------------------------------------------------------------------------


def tests_of(path: str) -> list[str]:
    """Test files of a module: that of its name, and its package's others that import it.

    Without one of its name: all that import it anywhere, and its package's.
    """
    module = path.removesuffix(".py").replace("/", ".")
    _, *_, package, name = module.split(".")
    if name == "core":
        folder = ROOT / "tests/methods"
        named = sorted(folder.glob(f"test_{package}*.py"))
        candidates, others = folder.glob("test_*.py"), []
    else:
        folder = ROOT / "tests" / package
        named = sorted(folder.glob(f"test_{name}.py"))
        candidates, others = folder.glob("test_*.py"), []
        if not named:
            candidates, others = (ROOT / "tests").rglob("test_*.py"), sorted(folder.glob("test_*.py"))
    importing = [file for file in sorted(candidates) if module in _imported(file)]
    return [str(file.relative_to(ROOT)) for file in dict.fromkeys((*named, *importing, *others))]


@cache
def _imported(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return found


def digest_of(files: Sequence[str]) -> str:
    return hashlib.sha256(b"".join((ROOT / file).read_bytes() for file in files)).hexdigest()[:12]


# --- runs -----------------------------------------------------------------------------------------------------------


class _Changed(importlib.machinery.SourceFileLoader):
    """Imports a module from another source."""

    def __init__(self, name: str, path: Path, source: str) -> None:
        super().__init__(name, str(path))
        self.source = source

    def get_code(self, fullname: str) -> Any:
        return compile(self.source, self.path, "exec")

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> Any:
        return (
            importlib.util.spec_from_file_location(fullname, self.path, loader=self) if fullname == self.name else None
        )


class _Watch:
    """A plugin of pytest: puts fast tests first, and notes how long tests take and which one fails."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.known = seconds
        self.seconds: dict[str, float] = {}
        self.failed: str | None = None

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items.sort(key=lambda item: self.known.get(item.nodeid, 0.0))

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and self.failed is None:
            self.failed = report.nodeid
        if report.when == "call":
            self.seconds[report.nodeid] = report.duration

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and self.failed is None:
            self.failed = f"import of {report.nodeid}"


@dataclass
class Run:
    """Tests that run in a fork."""

    mutant: Mutant | None
    files: list[str]
    out: Path
    until: float


def start(mutant: Mutant | None, files: list[str], seconds: dict[str, float], limit: int) -> tuple[int, Run]:
    """Fork, and run the tests of a mutant, or of the code as it is, in the child: within a limit in CPU seconds."""
    out = KEPT / f"{mutant.key if mutant else digest_of(files)}.out"
    out.unlink(missing_ok=True)
    pid = os.fork()
    if pid:
        return pid, Run(mutant, files, out, time.monotonic() + 10 * limit)
    code = 70
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nowhere, stream)
        if mutant:
            name = mutant.path.removesuffix(".py").replace("/", ".")
            sys.meta_path.insert(0, _Changed(name, ROOT / mutant.path, mutant.source))
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        import pytest

        watch = _Watch(seconds)
        code = int(pytest.main([*OPTIONS, *files], plugins=[watch]))
        out.write_text(json.dumps({"failed": watch.failed, "seconds": watch.seconds}))
    finally:
        os._exit(code)


def finished(running: dict[int, Run]) -> Iterator[tuple[Run, int, float, dict[str, Any]]]:
    """Wait for one run or more to end: the run, its exit code (negative: a signal), CPU seconds, what it noted."""
    ended = []
    while not ended:
        time.sleep(0.05)
        for pid, run in running.items():
            done, status, usage = os.wait4(pid, os.WNOHANG)
            if done:
                ended.append((pid, os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime))
            elif time.monotonic() > run.until:
                os.killpg(pid, signal.SIGKILL)
    for pid, code, seconds in ended:
        run = running.pop(pid)
        noted = json.loads(run.out.read_text()) if run.out.exists() else {}
        run.out.unlink(missing_ok=True)
        yield run, code, seconds, noted


def register_profile() -> None:
    """How hypothesis searches in a fork: the same each time, and no smallest example."""
    from hypothesis import HealthCheck, Phase, settings

    phases, checks = (Phase.explicit, Phase.generate), list(HealthCheck)
    settings.register_profile(
        "mutants", deadline=None, derandomize=True, database=None, phases=phases, suppress_health_check=checks
    )


def prepare() -> None:
    """Import what most tests need, and no module that is changed."""
    os.chdir(ROOT)
    os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch start threads, which a fork would lack
    for name in HEAVY:
        importlib.import_module(name)
    register_profile()
    changed = {f"trust_exp.{place.split('/')[0]}" for place in PLACES}
    if early := sorted(name for name in sys.modules if name.rpartition(".")[0] in changed):
        raise RuntimeError(f"imported too early to be changed: {', '.join(early)}")


def read_results() -> dict[str, dict[str, Any]]:
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return {record["key"]: record for record in map(json.loads, lines)}


def try_all(chosen: Sequence[Mutant], jobs: int) -> None:
    """Run the tests of the mutants without a result, and of survivors whose tests have changed."""
    known = read_results()
    files = {path: tests_of(path) for path in {mutant.path for mutant in chosen}}
    digests = {path: digest_of([path, *tests]) for path, tests in files.items()}

    def is_open(mutant: Mutant) -> bool:
        record = known.get(mutant.key)
        return record is None or (record["status"] == "survived" and record["tests"] != digests[mutant.path])

    waiting = [mutant for mutant in chosen if is_open(mutant)]
    print(f"{len(chosen)} mutants, {len(chosen) - len(waiting)} of them with a result", flush=True)
    if not waiting:
        return
    prepare()
    queue, running = iter(waiting), dict[int, Run]()
    while True:
        while len(running) < jobs and (mutant := next(queue, None)):
            tests = files[mutant.path]
            seconds, limit = without_mutant(mutant.path, tests, digests[mutant.path])
            pid, run = start(mutant, tests, seconds, limit)
            running[pid] = run
        if not running:
            return
        for run, code, cpu, noted in finished(running):
            assert run.mutant
            by = noted.get("failed") or (f"signal {-code}" if code < 0 else f"exit code {code}")
            status = {"status": "killed", "by": by} if code else {"status": "survived"}
            what = {"key": run.mutant.key, "path": run.mutant.path, "diff": run.mutant.diff}
            record = {**what, **status, "seconds": round(cpu, 1), "tests": digests[run.mutant.path]}
            with RESULTS.open("a") as file:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
            if not code:
                print(f"survived: {described(run.mutant)}", flush=True)


def without_mutant(path: str, tests: list[str], digest: str) -> tuple[dict[str, float], int]:
    """How long each of a module's tests takes, and a limit for all of them in CPU seconds; measured once."""
    known = json.loads(BASELINES.read_text()) if BASELINES.exists() else {}
    if known.get(path, {}).get("tests") != digest:
        pid, run = start(None, tests, {}, 300)
        ((_, code, cpu, noted),) = finished({pid: run})
        if code:
            raise RuntimeError(f"the tests of {path} fail without a mutant: {noted.get('failed') or code}")
        known[path] = {"tests": digest, "cpu": round(cpu, 1), "seconds": noted["seconds"]}
        BASELINES.write_text(json.dumps(known, indent=1))
        print(f"{path}: {len(noted['seconds'])} tests, {cpu:.0f} s", flush=True)
    return known[path]["seconds"], int(max(LEAST_PATIENCE, PATIENCE * known[path]["cpu"]))


# --- report ---------------------------------------------------------------------------------------------------------


def described(mutant: Mutant) -> str:
    return f"{mutant.path}:{mutant.line} ({mutant.kind}) {mutant.key}\n" + "\n".join(
        f"    {line}" for line in mutant.diff.splitlines()
    )


def report(chosen: Sequence[Mutant]) -> str:
    """The survivors and what is known about them, and the fraction of mutants that tests kill."""
    from trust_exp.results.intervals import wilson

    known, reasons = read_results(), tomllib.loads(REASONS.read_text())
    tried = [mutant for mutant in chosen if mutant.key in known]
    survivors = [mutant for mutant in tried if known[mutant.key]["status"] == "survived"]
    equal = [mutant for mutant in survivors if mutant.key in reasons["equivalent"]]
    lines = []
    for mutant in sorted(survivors, key=lambda mutant: (mutant.path, mutant.line)):
        why = [f"    {kind}: {found[mutant.key]}" for kind, found in reasons.items() if mutant.key in found]
        lines += [described(mutant), *(why or ["    no reason known"])]
    seconds = sum(known[mutant.key]["seconds"] for mutant in tried)
    lines.append(f"{len(tried)} of {len(chosen)} mutants tried, {seconds / 60:.0f} minutes of CPU time")
    for what, number in (("all", len(tried)), ("those not equivalent", len(tried) - len(equal))):
        if number:
            killed = len(tried) - len(survivors)
            low, high = wilson(killed, number)
            lines.append(f"killed of {what}: {killed} of {number}, {killed / number:.1%} ({low:.1%} to {high:.1%})")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=400, help="size of the sample")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    parser.add_argument("--only", default="", help="only mutants whose path or key has this in it")
    parser.add_argument("--report", action="store_true", help="try none, only report")
    given = parser.parse_args()
    chosen = sample(
        [mutant for mutant in all_mutants() if given.only in f"{mutant.path} {mutant.key}"], given.number, given.seed
    )
    KEPT.mkdir(exist_ok=True)
    if not given.report:
        try_all(chosen, given.jobs)
    print(report(chosen))


if __name__ == "__main__":
    main()
