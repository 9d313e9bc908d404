"""Writes the model card of an export, with the metadata that the Hugging Face hub reads."""

import json
import re
from typing import Any

from googlenet_jax.config import Config
from googlenet_jax.errors import printable
from googlenet_jax.storage.summary import selection_split

TEMPLATE = """\
---
{metadata}
---

# {name} on {dataset}

An image classifier with {parameters:,} parameters, written by googlenet_jax's `train.export`.

| | |
|---|---|
{rows}

## Use

```sh
python -m train.predict --model DIR IMAGE ...
```

```python
import googlenet_jax

model = googlenet_jax.load("DIR")  # this folder
print(model.predict(["photo.jpg", "another.png"]))  # the most probable classes of each
images = model.read("photo.jpg", "another.png")  # as for train.predict
logits = model.logits(images)  # or any uint8, or floats of 0 to 1, (batch, {shape})
```

`model.jaxexport` needs JAX and flatbuffers alone, and JAX promises to read it for six months
after it was written; `model.safetensors` has no such end:

```python
from pathlib import Path

import jax.export

program = jax.export.deserialize(bytearray(Path("DIR/model.jaxexport").read_bytes()))
logits = program.call(images)  # uint8
```

`config.json` holds the complete settings, every figure of the checkpoint's epoch, and the sha256
of both files.
"""


def card(values: dict[str, Any], parameters: int) -> str:
    """The text of an export's README.md; names that come from files are escaped.

    Args:
      values: The content of its config.json.
      parameters: Number of trainable parameters.
    """
    config, dataset, metrics = values["config"], values["dataset"], values["metrics"]
    provenance = values["provenance"]
    shape, data = dataset["image_shape"], provenance["data"]
    rows = {
        f"{split} accuracy, loss": _figures(metrics, split)
        for split in ("test", "valid", "train")
        if f"{split}_accuracy" in metrics
    } or {"accuracy": "not measured at this step"}
    rows["checkpoint"] = _checkpoint(values)
    if imported := data.get("imported"):
        rows["weights"] = (
            f"imported from {_code(data['source'])}, sha256 {_plain(data['sha256'])}, "
            + ", ".join(_plain(f"{name} {value}") for name, value in imported.items())
        )
    else:
        official = "the official ones" if data["official"] else "**not** the official ones"
        rows["images"] = (
            f"{_plain(dataset['name'])}, {official}; {_plain(data['source'])}, "
            f"sha256 {_plain(data['sha256'])}"
        )
        rows["trained by"] = _code(provenance["command"])
    if training := provenance["training"]:
        rows["in"] = f"{training['wall_seconds']:,.0f} s, with {_environment(training)}"
    rows["exported"] = f"{provenance['date']}, with {_environment(provenance['export'])}"
    rows["input"] = (
        f"{_cut(dataset['center_crop'])} resized to {shape[0]}x{shape[1]} pixels, {shape[2]} "
        f"channel{'s' * (shape[2] > 1)}; scaled to 0..1, "
        f"then normalised by the mean {_list(dataset['mean'])} and the standard deviation "
        f"{_list(dataset['std'])}, inside the network's program"
    )
    if config["train"]["ema_decay"]:
        rows["weights used"] = Config.from_dict(config).train.weights
    rows["computes in"] = (
        f"{config['model']['dtype']}, {config['model']['matmul_precision']} precision"
    )
    rows["classes"] = _list(dataset["class_names"])
    return TEMPLATE.format(
        metadata="\n".join(
            f"{k}: {json.dumps(v, ensure_ascii=False)}" for k, v in _metadata(values).items()
        ),
        name=config["model"]["name"],
        dataset=_plain(dataset["name"]),
        parameters=parameters,
        rows="\n".join(f"| {name} | {text} |" for name, text in rows.items()),
        shape=_list(shape),
    )


def _metadata(values: dict[str, Any]) -> dict[str, Any]:
    """The card's metadata. As JSON they are YAML, too, whatever the names hold."""
    name, metrics = printable(values["dataset"]["name"]), values["metrics"]
    metadata = {
        "library_name": "googlenet_jax",
        "pipeline_tag": "image-classification",
        "tags": ["jax", "flax", values["config"]["model"]["name"]],
    }
    if "test_accuracy" in metrics:
        found = {
            "task": {"type": "image-classification"},
            "dataset": {"name": name, "type": name, "split": "test"},
            "metrics": [{"type": "accuracy", "value": metrics["test_accuracy"]}],
        }
        model = values["config"]["model"]["name"]
        metadata["model-index"] = [{"name": f"{model} on {name}", "results": [found]}]
    return metadata


def _figures(metrics: dict[str, Any], split: str) -> str:
    how = ", in training mode, over the epoch" if split == "train" else ""
    return f"{metrics[f'{split}_accuracy']:.2%}, {metrics[f'{split}_loss']:.4f}{how}"


def _checkpoint(values: dict[str, Any]) -> str:
    text = f"{_plain(values['provenance']['checkpoint'])}: step {values['step']:,}"
    if values["metrics"]:
        text += f", epoch {values['metrics']['epoch']}"
        if values["provenance"]["checkpoint"] == "best":
            text += f"; the best epoch, chosen on the {selection_split(values['metrics'])} split"
    return text


def _environment(values: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in values["versions"].items())
    return _plain(f"{versions}, on {values['device']['kind']}")


def _cut(center_crop: float) -> str:
    if not center_crop:
        return "the whole picture,"
    return f"the central square, {center_crop:.1%} of the shorter side,"


def _list(values: list[Any]) -> str:
    return ", ".join(_plain(value) for value in values)


def _plain(value: object) -> str:
    """The value as text, with Markdown and HTML escaped."""
    special = r"[\\`*\[\]<>|&~$#!]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])"
    return re.sub(special, r"\\\g<0>", printable(value))


def _code(value: object) -> str:
    """The value as code in a table, between more backticks than it has in a row."""
    text = printable(value).replace("|", r"\|")
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}"
