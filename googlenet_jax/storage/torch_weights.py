"""Reads and writes the weights of PyTorch's GoogLeNets.

A state dict has one of three layouts, each with its own names for the same layers:

- "article": the code of the article that this project grew from: `inception3a.branch2.0.conv`.
- "torchvision": the same names, but conv2 is the 1x1 reduction and conv3 the paper's conv2.
- "zoo": the PyTorch CIFAR zoo's: `a3.b2.0` and `a3.b2.1` for a convolution and its BatchNorm.

PyTorch puts the channels of images and kernels first. Its BatchNorm keeps the unbiased running
variance, this project's the biased one; the numbers are copied unchanged.
"""

import dataclasses
import hashlib
import io
import math
import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from googlenet_jax import fileio
from googlenet_jax.config import Config, DataConfig, ModelConfig
from googlenet_jax.data import DatasetInfo
from googlenet_jax.data.cifar import FORMATS
from googlenet_jax.errors import DataError

UNITS = {
    "conv1x1": "branch1",
    "reduce3x3": "branch2.0",
    "conv3x3": "branch2.1",
    "reduce5x5": "branch3.0",
    "conv5x5": "branch3.1",
    "conv5x5_second": "branch3.2",
    "pool_proj": "branch4.1",
}
# The zoo's sequence, and the convolution's index in it; its BatchNorm has the next index.
ZOO_UNITS = {
    "conv1x1": ("b1", 0),
    "reduce3x3": ("b2", 0),
    "conv3x3": ("b2", 3),
    "reduce5x5": ("b3", 0),
    "conv5x5": ("b3", 3),
    "conv5x5_second": ("b3", 6),
    "pool_proj": ("b4", 1),
}
LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
COUNTER = "num_batches_tracked"  # the training steps that a BatchNorm has seen
MARKERS = {  # a tensor that only this layout, of those not listed before it, has
    "zoo": "pre_layers.0.weight",
    "torchvision": "conv3.conv.weight",
    "article": "inception3a.branch1.conv.weight",
}
MAX_BYTES = 2**31  # of a file
MAX_OPCODES = 10**6  # of a pickle; a thousand tensors take some 30,000
MAX_TUPLE = 10**4  # items of a tuple, nested ones included
MAX_REMARK = 1000  # characters of a text beside a state dict
LISTED = 12  # tensors named in a message; two very different networks differ in hundreds
# Torchvision's own weights take images scaled to -1..1 with `transform_input`, and images with
# ImageNet's usual mean and standard deviation without it.
TRANSFORMED = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclasses.dataclass(frozen=True)
class TorchFile:
    """The content of a PyTorch file.

    Attributes:
      tensors: The state dict, without a leading `module.`; floats as float32.
      layout: "article", "torchvision" or "zoo".
      extra: Numbers and short texts beside the state dict, such as accuracy and epoch.
      sha256: The sha256 of the file.
    """

    tensors: dict[str, np.ndarray]
    layout: str
    extra: dict[str, Any]
    sha256: str


def read(path: Path) -> TorchFile:
    """Reads a state dict, or a checkpoint that holds one as "net"; runs no code from the file.

    Raises:
      DataError: It cannot be read, or is not a GoogLeNet of a known layout.
    """
    load = _load_safetensors if path.suffix == ".safetensors" else _load_torch
    try:
        content = fileio.read(path, MAX_BYTES)
        loaded, extra = load(content)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except Exception as error:  # unpicklers raise almost anything
        reason = str(error).partition("\n")[0][:200]
        raise DataError(f"{path}: cannot be read: {type(error).__name__}: {reason}") from error
    tensors: dict[str, np.ndarray] = {}
    for full_name, value in loaded.items():
        name = full_name.removeprefix("module.")  # DataParallel puts it before each name
        if name in tensors:
            raise DataError(f"{path}: has {name} twice, also as module.{name}")
        tensors[name] = _checked(path, name, value)
    layout = next((layout for layout, name in MARKERS.items() if name in tensors), None)
    if layout is None:
        example = f", such as {next(iter(tensors))}" if tensors else ""
        raise DataError(
            f"{path}: is not a state dict of a GoogLeNet (the article's, torchvision's or the "
            f"CIFAR zoo's); it has {len(tensors)} tensors{example}"
        )
    return TorchFile(tensors, layout, extra, hashlib.sha256(content).hexdigest())


def _checked(path: Path, name: str, value: np.ndarray) -> np.ndarray:
    """A weight as float32, or a BatchNorm's counter as it is."""
    if name.endswith(COUNTER):
        if value.shape == () and value.dtype.kind in "iuf" and 0 <= value < 2**31:
            return value
    elif value.dtype.kind == "f":
        with np.errstate(over="ignore"):  # infinity is refused below
            value = value.astype(np.float32)
        if np.isfinite(value).all():
            return value
        raise DataError(f"{path}: {name} has values that are not finite")
    raise DataError(f"{path}: {name} is not a weight: {value.dtype} of shape {value.shape}")


def _load_safetensors(content: bytes) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    import safetensors.numpy

    return safetensors.numpy.load(content), {}


def _load_torch(content: bytes) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    try:
        import torch
    except ImportError as error:
        raise DataError(
            "needs PyTorch to be read (pip install torch), unless it is .safetensors"
        ) from error
    pickles = _checked_pickles(content)
    try:
        for file in pickles:
            _check_tuples(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, ValueError, IndexError) as error:
        # PyTorch's own message says how to run the code in the file.
        raise DataError(
            "cannot be read: it is damaged, or holds more than tensors and numbers; save "
            "net.state_dict() alone"
        ) from error
    extra = {}
    if isinstance(loaded, Mapping) and isinstance(loaded.get("net"), Mapping):
        extra = {k: v for k, v in loaded.items() if isinstance(k, str) and _is_remark(v)}
        loaded = loaded["net"]
    if not isinstance(loaded, Mapping) or not all(isinstance(name, str) for name in loaded):
        raise DataError(f"holds a {type(loaded).__name__}, not a state dict")
    tensors = {name: value for name, value in loaded.items() if isinstance(value, torch.Tensor)}
    # With a stride of 0, or a shared storage, tensors can be far larger than the file.
    size = sum(value.numel() * value.element_size() for value in tensors.values())
    if size > len(content) or any(value.is_sparse for value in tensors.values()):
        raise DataError(f"claims {size:,} bytes of tensors, but has {len(content):,} bytes")
    return {
        name: (value.float() if value.is_floating_point() else value).detach().numpy()
        for name, value in tensors.items()
    }, extra


def _is_remark(value: Any) -> bool:
    """Whether it is a number or a short text, which a checkpoint's record can hold."""
    if isinstance(value, str):
        return len(value) <= MAX_REMARK
    return isinstance(value, int | float) and math.isfinite(value) and abs(value) < 2**63


def _checked_pickles(content: bytes) -> list[io.BytesIO]:
    """The pickles in a PyTorch file, whose archive is verified: PyTorch ignores its checksums.

    Raises:
      DataError: A record of the archive is damaged, compressed or there twice.
    """
    if not content.startswith(b"PK"):
        # The format before 2020 has five pickles in a row and no checksums: a magic number, a
        # version, the machine, the object and the keys of its storages.
        return [io.BytesIO(content)] * 5
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        records = archive.infolist()
        if len({record.filename for record in records}) < len(records):
            raise DataError("it has two records of one name; save it again")
        for record in records:
            if record.compress_type != zipfile.ZIP_STORED:
                raise DataError(
                    f"its record {record.filename} is compressed, which PyTorch's are not"
                )
        if damaged := archive.testzip():
            raise DataError(
                f"its record {damaged} is damaged: its checksum is wrong; copy the file again"
            )
        return [io.BytesIO(archive.read(r)) for r in records if r.filename.endswith("data.pkl")]


def _check_tuples(file: io.BytesIO) -> None:
    """Refuses a pickle with tuples that hold the same tuples again and again.

    Such tuples are small, but PyTorch would hash them as keys, which takes forever. This runs
    through the pickle without building anything and tracks the size of each object: a tuple's is
    the sum of its items'.

    Raises:
      ValueError: A tuple or the pickle is too large, or it is not a pickle.
      IndexError: It is not a pickle.
    """
    mark = 0  # an object's size is never 0
    stack: list[int] = []
    memo: dict[Any, int] = {}
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        popped: list[int] = []
        for item in reversed(opcode.stack_before):
            if item is pickletools.stackslice:
                while stack[-1] != mark:
                    popped.append(stack.pop())
            else:
                popped.append(stack.pop())
        size = 1 + sum(popped) if "TUPLE" in opcode.name else 1
        if "GET" in opcode.name:
            size = memo.get(argument, 1)
        elif "PUT" in opcode.name:
            memo[argument] = stack[-1]
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = size = popped[0]
        elif opcode.name == "MARK":
            size = mark
        stack += [size] * len(opcode.stack_after)
        if size > MAX_TUPLE or count > MAX_OPCODES:
            raise ValueError("it is larger than any state dict")


def layout_of(params: PyTree) -> str:
    """The layout that has a name for every layer of a GoogLeNet, "article" if none has."""
    if "conv2" not in params:
        return "zoo"
    block = params["inception3a"]
    has_small_kernels = "conv5x5_second" not in block and (
        block["conv5x5"].get("conv", block["conv5x5"])["kernel"].shape[0] == 3
    )
    return "torchvision" if has_small_kernels and "conv2_reduce" in params else "article"


def torch_name(layout: str, path: tuple[str, ...]) -> str:
    """The name in a state dict of an array of `TrainState.params` or `batch_stats`.

    Args:
      layout: See the module.
      path: The array's path, such as ("inception3a", "conv1x1", "conv", "kernel"). A layer that
        the layout lacks keeps this project's name.
    """
    *layers, leaf = path
    leaf = LEAVES.get(leaf, leaf)
    if layout == "zoo":
        if layers == ["fc"]:
            return f"linear.{leaf}"
        unit, kind = ["", *layers][-2:]
        if place := ("pre_layers", 0) if unit == "conv1" else ZOO_UNITS.get(unit):
            block = [layers[0].removeprefix("inception")[::-1]] if len(layers) == 3 else []
            return ".".join([*block, place[0], str(place[1] + (kind == "bn")), leaf])
    if layout == "torchvision":
        layers[0] = {"conv2_reduce": "conv2", "conv2": "conv3"}.get(layers[0], layers[0])
    if layers[0].startswith("inception"):
        layers[1] = UNITS[layers[1]]
    return ".".join([*layers, leaf])


def to_torch(path: tuple[str, ...], value: np.ndarray, head_channels: int) -> np.ndarray:
    """An array in PyTorch's order of axes.

    Args:
      path: See `torch_name`.
      value: The array.
      head_channels: Channels of an auxiliary head's convolution, whose output fc1 sees flattened.
    """
    if path[-1] != "kernel":
        return value
    if value.ndim == 4:  # HWIO -> OIHW
        return np.ascontiguousarray(value.transpose(3, 2, 0, 1))
    if path[-2] == "fc1":  # (height width channels) -> (channels height width)
        value = value.reshape(-1, head_channels, value.shape[-1]).swapaxes(0, 1)
    return np.ascontiguousarray(value.reshape(-1, value.shape[-1]).T)


def from_torch(path: tuple[str, ...], value: np.ndarray, head_channels: int) -> np.ndarray:
    """The inverse of `to_torch`."""
    if path[-1] != "kernel":
        return value
    if value.ndim == 4:
        return np.ascontiguousarray(value.transpose(2, 3, 1, 0))
    value = value.T
    if path[-2] == "fc1":
        value = value.reshape(head_channels, -1, value.shape[-1]).swapaxes(0, 1)
    return np.ascontiguousarray(value.reshape(-1, value.shape[-1]))


def export(params: PyTree, batch_stats: PyTree, steps: int, layout: str) -> dict[str, np.ndarray]:
    """A state dict of the network's arrays.

    Args:
      params: `TrainState.params`.
      batch_stats: `TrainState.batch_stats`.
      steps: Training steps that BatchNorm has seen.
      layout: See the module.
    """
    channels = _head_channels(params)
    tensors = {
        torch_name(layout, path): to_torch(path, np.asarray(value), channels)
        for path, value in [*_leaves(params), *_leaves(batch_stats)]
    }
    for path, _ in _leaves(batch_stats):
        if path[-1] == "mean":
            name = torch_name(layout, path).removesuffix("running_mean")
            tensors[f"{name}{COUNTER}"] = np.array(steps, np.int64)
    return tensors


def import_into(params: PyTree, batch_stats: PyTree, file: TorchFile) -> tuple[PyTree, PyTree, int]:
    """The parameters, statistics and BatchNorm's steps in a file, in the network's layout.

    Args:
      params: The network's parameters, or their shapes.
      batch_stats: Its BatchNorm statistics, or their shapes.
      file: The PyTorch file.

    Raises:
      DataError: Tensors are missing, surplus or of another shape; lists up to `LISTED` of each.
    """
    channels = _head_channels(params)
    left = dict(file.tensors)
    steps = max((int(left.pop(n)) for n in list(left) if n.endswith(COUNTER)), default=0)
    missing, misshapen = [], []

    def take(path: tuple[Any, ...], like: Any) -> np.ndarray | None:
        keys = tuple(key.key for key in path)
        name = torch_name(file.layout, keys)
        if name not in left:
            missing.append(name)
            return None
        value = left.pop(name)
        shape = to_torch(keys, np.empty(like.shape, bool), channels).shape
        if value.shape != shape:
            misshapen.append(f"{name} {value.shape} instead of {shape}")
            return None
        return from_torch(keys, value, channels)

    found = [jax.tree_util.tree_map_with_path(take, tree) for tree in (params, batch_stats)]
    faults = {"missing": missing, "surplus": sorted(left), "misshapen": misshapen}
    if any(faults.values()):
        listed = [
            f"{len(names)} {kind}: {', '.join(names[:LISTED])}{', ...' * (len(names) > LISTED)}"
            for kind, names in faults.items()
            if names
        ]
        raise DataError(f"the tensors do not fit the network: {'; '.join(listed)}")
    return found[0], found[1], steps


def describe(file: TorchFile, transform_input: bool) -> tuple[Config, DatasetInfo]:
    """The config of the network in a file, and a description of the images it was made for.

    Ten classes are assumed to be CIFAR-10's, and a hundred CIFAR-100's. The max pools leave no
    trace in a file: with a stem of 7x7 in the article's layout, rows 1 and 2 are assumed if the
    classes are CIFAR's, and the paper's network at 224x224 otherwise.

    Args:
      file: The PyTorch file.
      transform_input: As in torchvision's constructor; True for its own weights.

    Raises:
      DataError: The first or last weight is missing, or the images cannot be inferred.
    """
    first, last = ("pre_layers.0", "linear") if file.layout == "zoo" else ("conv1.conv", "fc")
    kernel, weight = (file.tensors.get(f"{name}.weight", np.empty(0)) for name in (first, last))
    if kernel.ndim != 4 or weight.ndim != 2 or not kernel.size or not weight.size:
        raise DataError(f"it has no {first}.weight and {last}.weight with the axes of a network's")
    channels, in_channels, size, _ = kernel.shape
    data = next((n for n, f in FORMATS.items() if f.info.num_classes == len(weight)), "")
    model = ModelConfig(width_multiplier=channels / (192 if file.layout == "zoo" else 64))
    if file.layout == "zoo":
        model.stem, model.conv5x5, model.pool_padding = "single", "two_3x3", "one"
        model.dropout_rate = 0.0
    else:
        model.stem = f"{size}x{size}"
        model.batch_norm = "conv1.bn.weight" in file.tensors
        model.conv_bias = "conv1.conv.bias" in file.tensors
        model.aux_heads = "aux1.fc2.weight" in file.tensors
        model.conv2_reduce = "conv2_reduce.conv.weight" in file.tensors
    if file.layout == "torchvision":
        model.conv2_reduce, model.conv5x5, model.pool4_window = True, "3x3", 2
        model.bn_epsilon, model.dropout_rate = 1e-3, 0.2
        model.aux_pool = "adaptive" if model.aux_heads else model.aux_pool
    if model.stem == "7x7" and (file.layout == "torchvision" or not data or model.conv2_reduce):
        model.pools, name, image_shape = "1234", "tfds:imagenet2012", (224, 224, 3)
        normalised = file.layout == "torchvision" and transform_input
        mean, std = TRANSFORMED if normalised else IMAGENET
        class_names = tuple(map(str, range(len(weight))))  # a state dict has no class names
        # Torchvision resizes the shorter side to 256 pixels and evaluates the central 224.
        info = DatasetInfo("imagenet2012", class_names, image_shape, mean, std, 224 / 256)
    elif data:
        model.pools = "4" if model.stem == "7x7" else model.pools
        name, info = data, FORMATS[data].info
    else:
        raise DataError(
            f"it has {len(weight)} classes, from which its data set cannot be inferred; name the "
            "data set and the network with --config"
        )
    if in_channels != info.image_shape[2]:
        raise DataError(
            f"its images have {in_channels} channels, but those of {info.name} have "
            f"{info.image_shape[2]}; name the data set and the network with --config"
        )
    return Config(model=model, data=DataConfig(name=name)), info


def _leaves(tree: PyTree) -> Iterator[tuple[tuple[str, ...], Any]]:
    for path, value in jax.tree_util.tree_leaves_with_path(tree):
        yield tuple(key.key for key in path), value


def _head_channels(params: PyTree) -> int:
    return params["aux1"]["conv"]["conv"]["kernel"].shape[-1] if "aux1" in params else 1
