"""Measures the differences between this project's networks and independent PyTorch ones.

    python tests/helpers/parity.py                    prints the relative differences
    python tests/helpers/parity.py --write-goldens    also saves PyTorch's results

Both sides get the same weights (drawn by NumPy), images and labels, and take ten steps of SGD with
momentum and weight decay over two epochs of a cosine. Dropout is off, because the two frameworks
draw different masks.
"""

import argparse
import dataclasses
import functools
import math
import sys
import zlib
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from googlenet_jax import models
from googlenet_jax.config import ModelConfig, OptimizerConfig
from googlenet_jax.storage import torch_weights
from googlenet_jax.training import optimizer, step
from googlenet_jax.training.metrics import Metrics
from googlenet_jax.training.state import StepReport, TrainState

GOLDENS = Path(__file__).with_name("parity_goldens.npz")
CLASSES = 10
BATCH = 12
STEPS_PER_EPOCH, STEPS = 5, 10
# Small, so that ten steps are not chaotic: at row 8's 0.1 a difference of 1e-9 grows to 0.1.
LEARNING_RATE = 1e-4
MOMENTUM, WEIGHT_DECAY, AUX_WEIGHT = 0.9, 5e-4, 0.3
FLOAT64_TOLERANCE = 1e-9
"""Bound on `difference`; the largest value measured was 8e-13."""
FLOAT32_TOLERANCES = {
    "logits": 4e-6,
    "losses": 3e-3,
    "gradients": 5e-2,
    "statistics": 3e-3,
    "parameters": 1e-3,
}
SMOOTH_TOLERANCES = {
    "logits": 4e-6,
    "losses": 2e-4,
    "gradients": 1e-3,
    "statistics": 4e-6,
    "parameters": 5e-5,
}
"""Bounds on `distance`.

Rounding weights and images once to float32, in PyTorch's float64 network, moved the logits by up to
4e-7 in 48 draws. About sixty layers round in turn, and errors that grow like a random walk make
this 8 times larger. The other quantities are not smooth: among half a million inputs of ReLUs and
poolings, some lie within a rounding of a tie and go the other way. In those draws this moved
gradients by up to 7e-3, and after ten steps losses by 2e-4, statistics by 2e-4 and parameters by
5e-5. The errors of PyTorch's own float32 were up to 9e-3, 3e-4, 2e-4 and 5e-5. The bounds are 5 to
20 times that. Without BatchNorm on small batches, and in the ResNet, the same draws moved gradients
by up to 1e-4, losses by 1e-5 and parameters by 2e-6, so the bounds there are smaller. A wrong
formula shows in float64; a wrong precision (bfloat16, TF32) in the logits and in those gradients.
"""
QUANTITIES = ("logits", "losses", "gradients", "statistics", "parameters")

Tensors = dict[str, np.ndarray]
Result = dict[str, Tensors]
"""The tensors of each quantity, under PyTorch's names."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One network, in both frameworks.

    Attributes:
      model: Settings of this project's model; dropout is set to 0.
      torch: Class in `benchmarks.torch_networks` and its arguments.
      size: Height and width of the images, in pixels.
      layout: Naming scheme of the state dict.
    """

    model: dict[str, Any]
    torch: tuple[str, dict[str, Any]]
    size: int
    layout: str = "article"

    @property
    def float32_tolerances(self) -> dict[str, float]:
        smooth = not self.config.batch_norm or self.config.name == "preact_resnet"
        return SMOOTH_TOLERANCES if smooth else FLOAT32_TOLERANCES

    @property
    def config(self) -> ModelConfig:
        rates = {"dropout_rate": 0.0, "aux_dropout_rate": 0.0}
        return ModelConfig(**({} if "name" in self.model else rates), **self.model)


NARROW = 1 / 8
STEM7 = {"stem": "7x7", "batch_norm": False, "width_multiplier": NARROW}
TORCH7 = {"stem": 7, "bn": False, "width": NARROW}
TORCHVISION = {
    "stem": 7,
    "reduce": True,
    "pools": "1234",
    "pool4": 2,
    "five": 3,
    "eps": 1e-3,
    "bias": False,
    "head_side": 4,
    "adaptive": True,
    "torchvision": True,
}
# The widths tell all branches apart. The trunk's pools have partial windows at even sizes only.
# Sizes 31 and 224 give the heads the paper's 4x4.
CASES = {
    "row 1": Case(
        {**STEM7, "pools": "4", "aux_heads": True},
        ("GoogLeNet", {**TORCH7, "pools": "4", "head_side": 4}),
        31,
    ),
    "row 2": Case({**STEM7, "pools": "4"}, ("GoogLeNet", {**TORCH7, "pools": "4"}), 33),
    "rows 3, 4": Case(
        {"width_multiplier": NARROW, "batch_norm": False},
        ("GoogLeNet", {"width": NARROW, "bn": False}),
        17,
    ),
    "rows 5 to 8": Case({"width_multiplier": NARROW}, ("GoogLeNet", {"width": NARROW}), 17),
    "row 9, depth 20": Case(
        {"name": "preact_resnet", "depth": 20, "conv_bias": False, "width_multiplier": 0.25},
        ("PreActResNet", {"width": 0.25, "depth": 20}),
        17,
    ),
    "row 10": Case(
        {
            "stem": "single",
            "conv5x5": "two_3x3",
            "pool_padding": "one",
            "width_multiplier": NARROW,
        },
        ("ZooGoogLeNet", {"width": NARROW}),
        17,
        "zoo",
    ),
    "the paper's": Case(
        {**STEM7, "conv2_reduce": True, "pools": "1234", "aux_heads": True},
        ("GoogLeNet", {**TORCH7, "reduce": True, "pools": "1234", "head_side": 4}),
        224,
    ),
    "torchvision's": Case(
        {
            "stem": "7x7",
            "conv2_reduce": True,
            "pools": "1234",
            "pool4_window": 2,
            "conv5x5": "3x3",
            "bn_epsilon": 1e-3,
            "conv_bias": False,
            "aux_heads": True,
            "aux_pool": "adaptive",
            "width_multiplier": NARROW,
        },
        (
            "GoogLeNet",
            {**TORCHVISION, "width": NARROW},
        ),
        224,
        "torchvision",
    ),
}


def draw(case: Case, dtype: str = "float32") -> tuple[Any, Any, Any, np.ndarray, np.ndarray]:
    """Returns the network's graph, and NumPy parameters, statistics, images and labels."""
    rng = np.random.default_rng(zlib.crc32(repr(case.model).encode()))

    def build() -> nnx.Module:
        config = dataclasses.replace(case.config, dtype=dtype, matmul_precision="highest")
        return models.create(config, (case.size, case.size, 3), CLASSES)

    network = nnx.eval_shape(build)
    graphdef, params, stats = nnx.split(network, nnx.Param, nnx.BatchStat)

    def number(path: tuple[Any, ...], like: Any) -> np.ndarray:
        leaf = path[-1].key
        if leaf == "kernel":  # Kaiming by fan-in: ten steps without BatchNorm stay finite
            bound = math.sqrt(6 / math.prod(like.shape[:-1]))
            return rng.uniform(-bound, bound, like.shape)
        if leaf in ("scale", "var"):
            return rng.uniform(0.5, 1.5, like.shape)
        # Positive biases without BatchNorm: a narrow network would have dead units.
        low, high = (-0.1, 0.1) if case.config.batch_norm else (0.1, 0.5)
        return rng.uniform(low, high, like.shape)

    params, stats = (
        jax.tree_util.tree_map_with_path(number, nnx.to_pure_dict(tree)) for tree in (params, stats)
    )
    images = rng.normal(size=(STEPS, BATCH, case.size, case.size, 3))
    labels = rng.integers(0, CLASSES, (STEPS, BATCH))
    return graphdef, params, stats, images, labels


@functools.cache
def run_jax(name: str, dtype: str) -> Result:
    """Returns the results of this project's training step."""
    case = CASES[name]
    # Flax's BatchNorm mixes its float32 constants with float64 statistics.
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        graphdef, *numbers, labels = draw(case, dtype)
        params, stats, images = jax.tree.map(lambda x: jnp.asarray(x, dtype), tuple(numbers))
        schedule = optimizer.create_schedule(
            OptimizerConfig(learning_rate=LEARNING_RATE), STEPS_PER_EPOCH, STEPS
        )
        rest = (np.dtype(dtype).type(x) for x in (MOMENTUM, WEIGHT_DECAY, AUX_WEIGHT, 0.0))
        hyperparameters = step.Hyperparameters(schedule(np.arange(STEPS)).astype(dtype), *rest)
        state = TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=stats,
            opt_state=optimizer.sgd(0.0, 0.0, 0.0).init(params),
            metrics=Metrics.empty(CLASSES),
            report=StepReport.empty(),
            graphdef=graphdef,
            optimizer=optimizer.sgd,
        )
        infer = jax.jit(lambda state, images: state.apply(state.params, images, train=False)[0])
        train_step = jax.jit(functools.partial(step.train_step, hyperparameters=hyperparameters))
        logits = infer(state, images[0])
        losses, gradients = [], None
        for batch, marks in zip(images, jnp.asarray(labels, jnp.int32), strict=True):
            before = state.params
            state = train_step(state, batch, marks, jax.random.key(0))
            losses.append(float(state.report.loss))
            if gradients is None:  # momentum after the first step, minus the decay
                trace = optax.tree.get(state.opt_state, "trace")
                gradients = jax.tree.map(lambda b, p: b - WEIGHT_DECAY * p, trace, before)
        assert logits.dtype == dtype

        def named(*trees: Any) -> Tensors:
            params, stats = jax.device_get(trees)
            tensors = torch_weights.export(params, stats, STEPS, case.layout)
            return {n: x for n, x in tensors.items() if not n.endswith(torch_weights.COUNTER)}

        return {
            "logits": {"logits": np.asarray(logits)},
            "losses": {"losses": np.array(losses)},
            "gradients": named(gradients, {}),
            "statistics": {
                n: x for n, x in named(state.params, state.batch_stats).items() if "running" in n
            },
            "parameters": named(state.params, {}),
        }


@functools.cache
def run_torch(name: str, dtype: str) -> Result:
    """Returns the results of PyTorch."""
    import torch
    from torch.nn import functional

    from benchmarks import torch_networks

    case = CASES[name]
    _, params, stats, images, labels = draw(case)
    kind, arguments = case.torch
    if kind == "GoogLeNet":
        arguments = {**arguments, "dropout": (0.0, 0.0)}
    network = getattr(torch_networks, kind)(CLASSES, **arguments).to(getattr(torch, dtype))
    tensors = torch_weights.export(params, stats, 0, case.layout)
    network.load_state_dict({n: torch.from_numpy(np.array(x)) for n, x in tensors.items()})
    images = torch.from_numpy(images.transpose(0, 1, 4, 2, 3).copy()).to(getattr(torch, dtype))
    labels = torch.from_numpy(labels)

    network.eval()
    with torch.inference_mode():
        logits = network(images[0])
    network.train()
    sizes: dict[str, int] = {}  # values per channel in each BatchNorm
    for layer_name, layer in network.named_modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.register_forward_pre_hook(
                lambda _, inputs, layer_name=layer_name: sizes.update(
                    {layer_name: inputs[0].numel() // inputs[0].shape[1]}
                )
            )
    sgd = torch.optim.SGD(
        network.parameters(), LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, STEPS // STEPS_PER_EPOCH)
    losses, gradients = [], {}
    for number in range(STEPS):
        outputs = network(images[number])
        logits_, *heads = outputs if isinstance(outputs, tuple) else (outputs,)
        loss = functional.cross_entropy(logits_, labels[number])
        loss = loss + AUX_WEIGHT * sum(functional.cross_entropy(h, labels[number]) for h in heads)
        sgd.zero_grad()
        loss.backward()
        if not gradients:
            gradients = {n: p.grad.numpy().copy() for n, p in network.named_parameters()}
        sgd.step()
        if (number + 1) % STEPS_PER_EPOCH == 0:
            cosine.step()
        losses.append(float(loss.detach()))
    after = {n: x.detach().numpy() for n, x in network.state_dict().items()}
    statistics = {n: x for n, x in after.items() if "running" in n}
    for n in statistics:
        if n.endswith("running_var"):
            # PyTorch keeps the unbiased variance, n / (n - 1) of ours; the initial variance that
            # is left in it has no such factor.
            size, first = sizes[n.removesuffix(".running_var")], tensors[n] * 0.9**STEPS
            statistics[n] = first + (statistics[n] - first) * (size - 1) / size
    return {
        "logits": {"logits": logits.numpy()},
        "losses": {"losses": np.array(losses)},
        "gradients": gradients,
        "statistics": statistics,
        "parameters": {n: after[n] for n, _ in network.named_parameters()},
    }


def scale(quantity: str, name: str, tensors: Tensors) -> float:
    """Returns the scale for a tensor's difference: its largest absolute value.

    For the gradient of a convolution's bias it is that of the kernel, because before BatchNorm a
    bias's gradient is rounding only.
    """
    if quantity == "gradients" and name.endswith(".bias"):
        kernel = tensors[f"{name.removesuffix('bias')}weight"]
        if kernel.ndim == 4:
            return float(np.abs(kernel).max())
    return float(np.abs(tensors[name]).max())


def difference(found: Result, expected: Result, quantity: str) -> float:
    """Returns the largest relative difference over a quantity's tensors."""
    ours, theirs = found[quantity], expected[quantity]
    assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
    ratios = (np.abs(ours[n] - x).max() / scale(quantity, n, theirs) for n, x in theirs.items())
    return float(max(ratios, default=0.0))  # there are no statistics without BatchNorm


def distance(found: Result, expected: Result, quantity: str) -> float:
    """Returns the norm of a quantity's difference relative to its norm, over all tensors."""
    ours, theirs = (
        np.concatenate([np.zeros(1), *(result[quantity][n].ravel() for n in expected[quantity])])
        for result in (found, expected)
    )
    return float(np.linalg.norm(ours - theirs) / max(np.linalg.norm(theirs), 1e-300))


def fingerprint(result: Result) -> dict[str, np.ndarray]:
    """Returns per quantity a row for each tensor, in order of name: scale, two random sums."""
    rows = {}
    for quantity in QUANTITIES:
        tensors = result[quantity]
        rows[quantity] = np.array(
            [
                (scale(quantity, n, tensors), *(signs(n, tensors[n].size) @ tensors[n].ravel()))
                for n in sorted(tensors)
            ]
        )
    return rows


def signs(name: str, size: int) -> np.ndarray:
    """Returns two rows of random signs, seeded by the tensor's name."""
    return np.random.default_rng(zlib.crc32(name.encode())).choice([-1.0, 1.0], (2, size))


def table(names: list[str]) -> str:
    """Returns a Markdown table of each network's error against PyTorch in float64.

    The error is `difference` in float64, and `distance` in float32 for either framework.
    """
    lines = [
        f"| network | precision | {' | '.join(QUANTITIES)} |",
        f"|---|---|{'---|' * len(QUANTITIES)}",
    ]
    for name in names:
        exact = run_torch(name, "float64")
        for what, result, measure in (
            ("float64", run_jax(name, "float64"), difference),
            ("float32", run_jax(name, "float32"), distance),
            ("float32, PyTorch", run_torch(name, "float32"), distance),
        ):
            values = " | ".join(
                f"{measure(result, exact, q):.1e}" if exact[q] else "" for q in QUANTITIES
            )
            lines.append(f"| {name} | {what} | {values} |")
            print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def main() -> None:
    """Prints the table; with --write-goldens also saves PyTorch's results."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--write-goldens", action="store_true")
    parser.add_argument("--networks", nargs="+", default=list(CASES), choices=list(CASES))
    arguments = parser.parse_args()
    print(f"jax {jax.__version__}, torch {torch.__version__}, {jax.devices()[0].device_kind}\n")
    print(table(arguments.networks))
    if arguments.write_goldens:
        goldens = {
            f"{name}/{quantity}": rows
            for name in arguments.networks
            for quantity, rows in fingerprint(run_torch(name, "float64")).items()
        }
        np.savez_compressed(GOLDENS, **goldens)


if __name__ == "__main__":
    main()
