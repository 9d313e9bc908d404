"""The figures of a finished run, the best epoch, and the devices and versions used."""

import platform
from importlib import metadata
from typing import Any

import jax

from googlenet_jax.config import Config
from googlenet_jax.storage.checkpoint import Record, rank
from googlenet_jax.version import __version__

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def selection_split(entry: dict[str, Any]) -> str:
    """The split on which the best checkpoint is chosen: validation if there is one, else test."""
    return "valid" if "valid_accuracy" in entry else "test"


def selection_metrics(entry: dict[str, Any]) -> dict[str, float] | None:
    """The accuracy and loss that rank an epoch; None if it was not evaluated."""
    split = selection_split(entry)
    if f"{split}_accuracy" not in entry:
        return None
    return {name: entry[f"{split}_{name}"] for name in ("accuracy", "loss")}


def best_entry(history: list[dict[str, Any]]) -> dict[str, Any]:
    """The best of the evaluated epochs, the later one of equals, as `Checkpoints.best`."""
    ranked = [(rank(metrics), entry) for entry in history if (metrics := selection_metrics(entry))]
    return sorted(ranked, key=lambda pair: pair[0])[-1][1]


def summarize(config: Config, record: Record, parameters: int) -> dict[str, Any]:
    """The content of summary.json."""
    final, best = record.history[-1], best_entry(record.history)
    return {
        "final": final,
        "best": best,
        "best_chosen_on": selection_split(best),
        "seed": config.seed,
        "parameters": parameters,
        "weights": config.train.weights,
        "dtype": config.model.dtype,
        "matmul_precision": config.model.matmul_precision,
        "dataset": record.dataset,
        "data": record.provenance,
        "init_from": config.train.init_from,
        "warnings": list(record.warnings.values()),
        "wall_seconds": sum(entry["seconds"] for entry in record.history),
        **environment(),
    }


def environment() -> dict[str, Any]:
    """The devices and the package versions in use."""
    device = jax.devices()[0]
    return {
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
            "processes": jax.process_count(),
        },
        "versions": {
            "googlenet_jax": __version__,
            "python": platform.python_version(),
            **{package: metadata.version(package) for package in PACKAGES},
        },
    }
