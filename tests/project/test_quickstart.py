"""The notebook runs from top to bottom with a small network, and its saved outputs are valid."""

import json
import re
from pathlib import Path

import nbclient
import nbformat
import pytest
from nbformat.v4 import new_code_cell

NOTEBOOK = Path(__file__).parents[2] / "examples" / "quickstart.ipynb"
# Compiles faster than GoogLeNet.
SMALL = """\
config.model.name, config.model.depth = "preact_resnet", 11
config.model.width_multiplier = 0.5
"""
FOUND = """\
import json

found = {
    "workdir": str(workdir),
    "predicted": predicted.tolist(),
    "labels": test.labels.tolist(),
    "history": [json.loads(line) for line in (workdir / "metrics.jsonl").open()],
    "best": summary["best"],
}
print(json.dumps(found))
"""


def tags(cell):
    return cell.metadata.get("tags", [])


def text(cell):
    """Returns what a code cell printed."""
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def pictures(cell):
    return [o for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def by_tag(notebook, tag):
    (cell,) = (cell for cell in notebook.cells if tag in tags(cell))
    return cell


def test_the_notebook_runs(notebook, tmp_path, monkeypatch):
    kept = text(by_tag(notebook, "layers"))
    cells = [cell for cell in notebook.cells if "install" not in tags(cell)]
    cells.insert(cells.index(by_tag(notebook, "recipe")) + 1, new_code_cell(SMALL))
    notebook.cells = [*cells, new_code_cell(FOUND)]
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # as in compiling.py
    # "python3" is the interpreter that runs this test.
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, kernel_name="python3", resources=place).execute()

    assert text(by_tag(notebook, "layers")) == kept
    assert sum(len(pictures(cell)) for cell in notebook.cells) == 2
    found = json.loads(text(notebook.cells[-1]))
    assert (tmp_path / found["workdir"] / "curves.png").exists()
    assert [line["epoch"] for line in found["history"]] == [1, 2]
    assert found["history"][1]["train_loss"] < found["history"][0]["train_loss"]
    # Chance is 0.1.
    right = [a == b for a, b in zip(found["predicted"], found["labels"], strict=True)]
    assert sum(right) / len(right) == pytest.approx(found["best"]["test_accuracy"])
    assert found["best"]["test_accuracy"] > 0.4


def test_the_saved_outputs_come_from_one_run(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    executed = [cell for cell in code if "install" not in tags(cell)]
    assert [cell.execution_count for cell in executed] == [*range(1, len(executed) + 1)]
    assert sum(len(pictures(cell)) for cell in code) == 2
    kept = "".join(map(text, executed))
    assert float(re.search(r"\[2/2\].* test \S+ (\S+)%", kept)[1]) > 80
    assert not re.search(r"(/home|/root|/tmp|/work|/Users)/|Traceback|Warning", kept)
