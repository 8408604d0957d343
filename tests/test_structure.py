"""The house rules that a linter of imports cannot say."""

import ast
import importlib
import pkgutil
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from trust_exp import choices
from trust_exp.schema import CONF, ROOT

PACKAGE = ROOT / "trust_exp"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in (PACKAGE, ROOT / "hydra_plugins")
    for path in sorted(folder.rglob("*.py"))
}
PACKAGES = [name for name, path in MODULES.items() if path.name == "__init__.py"]
LIBRARIES = ("attacks", "explain", "lipschitz", "metrics")  # plain functions, for users without the rest
FAMILIES = sorted(path.parent.name for path in (PACKAGE / "methods").glob("*/__init__.py"))
EVALS = sorted(path.parent.name for path in (PACKAGE / "evals").glob("*/__init__.py"))


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_whole(family):
    folder = PACKAGE / "methods" / family
    for name in ("module.py", "config.py", "README.md"):
        assert (folder / name).exists(), f"{family} lacks {name}"
    targets = [text for path in (CONF / "method").glob("*.yaml") for text in [path.read_text()]]
    schemas = [name for name in vars(importlib.import_module(f"trust_exp.methods.{family}.config")) if "Config" in name]
    assert any(f"/schema/{name}@_here_" in text for text in targets for name in schemas), f"{family} has no conf/method"


@pytest.mark.parametrize("name", EVALS)
def test_an_eval_is_whole(name):
    for file in ("suite.py", "config.py"):
        assert (PACKAGE / "evals" / name / file).exists(), f"{name} lacks {file}"
    schema = choices.read_choice("eval", name).schema
    assert schema is not None
    assert schema.__module__ == f"trust_exp.evals.{name}.config"


@pytest.mark.parametrize("name", EVALS)
def test_no_other_file_names_an_eval(name):
    """Deleting its folder and its files in conf/ removes it."""
    for path in PACKAGE.rglob("*.py"):
        if not path.is_relative_to(PACKAGE / "evals" / name):
            assert f"trust_exp.evals.{name}" not in {".".join(each.split(".")[:3]) for each in imports(path)}, path


@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_imports_another(family):
    for path in (PACKAGE / "methods" / family).glob("*.py"):
        for name in imports(path):
            parts = name.split(".")
            if parts[:2] == ["trust_exp", "methods"] and len(parts) > 2:
                assert parts[2] in (family, "base", "config", "schedules"), f"{path.name} of {family} imports {name}"


@cache
def imported_modules(name: str) -> frozenset[str]:
    """The modules of the project that a module imports anywhere, within functions too."""
    names = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            within = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {found if found in MODULES else str(node.module) for found in within}
    return frozenset(names & MODULES.keys() - {name})


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    """The modules that are on circles, or lead from one to another; none if there is no circle."""
    left = {name: set(wanted) for name, wanted in graph.items()}
    while ends := {name for name, wanted in left.items() if not wanted & left.keys()}:
        left = {name: wanted for name, wanted in left.items() if name not in ends}
    while starts := left.keys() - {name for wanted in left.values() for name in wanted}:
        left = {name: wanted for name, wanted in left.items() if name not in starts}
    return sorted(left)


def test_no_imports_form_a_circle():
    assert circle_in({name: set(imported_modules(name)) for name in MODULES}) == []


def test_a_circle_of_imports_is_found():
    assert circle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}, "e": set()}) == ["b", "c"]
    assert circle_in({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_hides_none_of_its_modules(name):
    """Else ``from package import name`` gives the module or the function, as it was imported before."""
    package = importlib.import_module(name)
    bound = set(getattr(package, "__all__", ()))
    for node in ast.parse(MODULES[name].read_text()).body:
        if isinstance(node, ast.ImportFrom | ast.Import):
            bound |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound.add(node.name)
    assert not bound & {module.name for module in pkgutil.iter_modules(package.__path__)}
    for exported in getattr(package, "__all__", ()):
        assert not isinstance(getattr(package, exported), ModuleType), f"{exported} is a module"


@pytest.mark.parametrize("library", LIBRARIES)
def test_no_module_of_a_library_has_the_name_of_its_function(library):
    """``from trust_exp.attacks import apgd`` gives what can be called."""
    for path in (PACKAGE / library).glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            named = isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name
            assert named != path.stem, f"{path} hides its own {named}"


@pytest.mark.parametrize(
    ("library", "name"), [("attacks", "apgd"), ("attacks", "autoattack"), ("attacks", "square"), ("explain", "nmf")]
)
def test_a_library_gives_its_functions(library, name):
    assert callable(getattr(importlib.import_module(f"trust_exp.{library}"), name))


def reads_or_writes_text(call: ast.Call) -> bool:
    """Whether a call opens a file as text, whose encoding is the locale's unless it is given."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr in ("read_text", "write_text")
    if not isinstance(call.func, ast.Name) or call.func.id != "open":
        return False
    mode = next((word.value for word in call.keywords if word.arg == "mode"), (call.args[1:2] or [None])[0])
    return not (isinstance(mode, ast.Constant) and "b" in str(mode.value))


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_keeps_the_conventions(path):
    names = imports(path)
    assert not any(name.split(".")[0] in ("pytorch_lightning", "torchattacks") for name in names)
    assert path.stem != "utils"
    tree = ast.parse(path.read_text())
    if tree.body:
        assert ast.get_docstring(tree), f"{path} says nothing of itself"
    for node in ast.walk(tree):
        public = isinstance(node, ast.ClassDef) and not node.name.startswith("_")
        assert not public or ast.get_docstring(node), f"{path}: {node.name} has no docstring"
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            assert any(word.arg == "weights_only" for word in node.keywords), f"{path}: torch.load unpickles"
        if isinstance(node, ast.Call) and reads_or_writes_text(node):
            assert any(word.arg == "encoding" for word in node.keywords), f"{path}: {ast.unparse(node)} asks the locale"
    assert not any(isinstance(node, ast.Assert) for node in ast.walk(tree)), f"{path}: errors are raised, not asserted"


def test_docs_and_code_name_no_machine():
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *PACKAGE.rglob("*.py"), *CONF.rglob("*.yaml")]:
        text = path.read_text()
        for word in ("/work/", "/root/", "/home/"):
            assert word not in text, f"{path} names {word}"


def test_no_placeholder_is_left_in_the_readme():
    assert "@OUTPUT@" not in (ROOT / "README.md").read_text()
    assert len((ROOT / "README.md").read_text().splitlines()) < 300
