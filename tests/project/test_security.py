"""No source of this project uses a call that could run code stored in a data file."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("googlenet_jax", "train", "configs", "benchmarks")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
# A config file is Python, the only kind of file that is run.
ALLOWED = {("train/flags.py", "exec_module")}

CALLS = {"eval", "exec", "compile", "__import__", "exec_module", "run_path", "system", "popen"}
READERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill"}
MODULES = {"marshal", "joblib", "shelve", "cloudpickle", "dill", "jsonpickle"}


def called(call: ast.Call) -> tuple[str, str]:
    """Returns ("np", "load") for `np.load(…)` and ("", "eval") for `eval(…)`."""
    function = call.func
    if isinstance(function, ast.Attribute):
        owner = function.value
        return getattr(owner, "id", getattr(owner, "attr", "")), function.attr
    return "", getattr(function, "id", "")


def value(call: ast.Call, name: str) -> object:
    """Returns an argument's constant value, None if absent, ... if not a constant."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value.value if isinstance(keyword.value, ast.Constant) else ...
        if keyword.arg is None:
            return ...  # **options may hold anything
    return None


def unsafe(tree: ast.AST) -> list[str]:
    """Returns the names of calls and imports that could run code from a file."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = {alias.name.split(".")[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom):
                # Functions imported by name would not be recognised below.
                is_reader = (node.module or "") in {*READERS, "torch", "yaml", "numpy"}
                names = {alias.name for alias in node.names}
                found += ["import"] * (is_reader and bool(names & {"load", "loads", "Unpickler"}))
                modules = {(node.module or "").split(".")[0]}
            found += sorted(modules & MODULES)
        elif isinstance(node, ast.ClassDef):
            bases = [getattr(base, "attr", getattr(base, "id", "")) for base in node.bases]
            methods = {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
            if {"Unpickler", "_Unpickler"} & {*bases} and "find_class" not in methods:
                found.append("Unpickler")
        elif isinstance(node, ast.Call):
            owner, name = called(node)
            # re.compile and JAX's; the mode of a network, which takes no text.
            is_mode = name == "eval" and not node.args
            is_harmless = isinstance(node.func, ast.Attribute) and (name == "compile" or is_mode)
            if name in CALLS and not is_harmless:
                found.append(name)
            if owner in READERS and name in ("load", "loads", "Unpickler", "_Unpickler"):
                found.append(f"{owner}.{name}")
            if (owner, name) == ("torch", "load") and value(node, "weights_only") is not True:
                found.append("torch.load")
            if value(node, "allow_pickle") not in (None, False) and name.startswith("load"):
                found.append("allow_pickle")
            if owner == "yaml" and name not in ("safe_load", "safe_dump", "dump"):
                found.append(f"yaml.{name}")
            if value(node, "shell") not in (None, False, ...):
                found.append("shell")
    return found


def test_no_source_can_run_code_from_a_data_file():
    found = {
        (path.relative_to(ROOT).as_posix(), each)
        for path in SOURCES
        for each in unsafe(ast.parse(path.read_text()))
    }
    assert found == ALLOWED


@pytest.mark.parametrize(
    "source",
    [
        *("pickle.load(f)", "pickle.loads(b)", "pickle.Unpickler(f).load()", "import joblib"),
        *("from pickle import loads", "from marshal import x", "torch.load(f)", "eval(text)"),
        *("torch.load(f, weights_only=False)", "torch.load(f, weights_only=flag)", "exec(text)"),
        *("torch.load(f, **options)", "np.load(f, allow_pickle=True)", "yaml.load(f)"),
        *("np.load(f, allow_pickle=flag)", "from numpy import load", "os.system(text)"),
        *("class A(pickle.Unpickler): pass", "compile(text, '', 'exec')", "run(x, shell=True)"),
        *("spec.loader.exec_module(module)", "frame.eval(text)"),
    ],
)
def test_unsafe_calls_are_found(source):
    assert unsafe(ast.parse(source))


@pytest.mark.parametrize(
    "source",
    [
        *("np.load(f)", "json.loads(b)", "torch.load(f, weights_only=True)", "re.compile(text)"),
        *("class A(pickle.Unpickler):\n    def find_class(self): ...", "yaml.safe_load(f)"),
        *("jax.jit(f).lower(x).compile()", "np.load(f, allow_pickle=False)", "network.eval()"),
    ],
)
def test_safe_calls_are_allowed(source):
    assert not unsafe(ast.parse(source))


def test_documented_bounds_match_the_source():
    rows = re.findall(
        r"^\|.*\| ([\d,.]+) .*\| `([\w.]+)` \|$", (ROOT / "SECURITY.md").read_text(), re.M
    )
    assert rows
    for bound, name in rows:
        module, _, constant = name.rpartition(".")
        assert f"{getattr(importlib.import_module(module), constant):,}" == bound, name


def test_prints_outside_the_console_are_known():
    """console.py escapes names. The few prints elsewhere print only this project's own text."""
    own = {"contact_sheet.py": 1, "flags.py": 1, "main.py": 1, "summarize.py": 1, "cluster.py": 1}
    own |= {"pictures.py": 1, "progress.py": 1, "__main__.py": 5}
    found = {}
    for path in [*ROOT.glob("googlenet_jax/**/*.py"), *ROOT.glob("train/*.py")]:
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if _is_print(node)]
        if calls and path.name != "console.py":
            found[path.name] = len(calls)
    assert found == own


def _is_print(node):
    if not isinstance(node, ast.Call):
        return False
    called = ast.unparse(node.func)
    return called == "print" or called.endswith(("stdout.write", "stderr.write", "print_exc"))
