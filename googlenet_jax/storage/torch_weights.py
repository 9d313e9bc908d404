"""Weights of PyTorch's GoogLeNets, in and out.

A state dict comes from one of three programs, each with its own names for the same layers:

- "article": the code of the article that this project grew from: `inception3a.branch2.0.conv`.
- "torchvision": the same names, but conv2 is the 1x1 reduction and conv3 the paper's conv2.
- "zoo": the PyTorch CIFAR zoo's: `a3.b2.0` and `a3.b2.1` for a convolution and its BatchNorm.

PyTorch has images and kernels with the channels first. It keeps BatchNorm's unbiased running
variance where this project keeps the biased one; the numbers are taken over as they are.
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
# The sequence of the zoo, and the convolution's place in it; BatchNorm has the next one.
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
COUNTER = "num_batches_tracked"  # of each BatchNorm: the training steps that it has seen
MAX_BYTES = 2**31  # of a file
MAX_OPCODES = 10**6  # of a pickle; a thousand tensors take some 30,000
MAX_TUPLE = 10**4  # items of a tuple, with all those in it
MAX_REMARK = 1000  # characters of what stands beside a state dict
LISTED = 12  # of two networks that have little in common, hundreds would not fit
# What torchvision's own weights were trained on: with its `transform_input`, images scaled to
# -1..1; without it, ImageNet's usual mean and deviation.
TRANSFORMED = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclasses.dataclass(frozen=True)
class TorchFile:
    """What a file of PyTorch's holds.

    Attributes:
      tensors: the state dict, without a leading `module.`; floats as float32.
      layout: "article", "torchvision" or "zoo".
      extra: what stands beside the state dict, such as accuracy and epoch.
      sha256: of the file.
    """

    tensors: dict[str, np.ndarray]
    layout: str
    extra: dict[str, Any]
    sha256: str


def read(path: Path) -> TorchFile:
    """Reads a state dict, or a checkpoint that holds one as "net"; runs none of its code.

    Raises:
      DataError: it cannot be read, or is no GoogLeNet that is known.
    """
    load = _load_safetensors if path.suffix == ".safetensors" else _load_torch
    try:
        content = fileio.read(path, MAX_BYTES)
        loaded, extra = load(content)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except Exception as error:  # unpicklers raise almost anything
        reason = str(error).partition("\n")[0][:200]
        raise DataError(f"{path}: cannot be read: {type(error).__name__}: {reason}") from error
    tensors: dict[str, np.ndarray] = {}
    for full_name, value in loaded.items():
        name = full_name.removeprefix("module.")  # which DataParallel puts before each
        if name in tensors:
            raise DataError(f"{path}: has {name} twice, as module.{name} as well")
        tensors[name] = _checked(path, name, value)
    if "pre_layers.0.weight" in tensors:
        layout = "zoo"
    elif "conv3.conv.weight" in tensors:
        layout = "torchvision"
    elif "inception3a.branch1.conv.weight" in tensors:
        layout = "article"
    else:
        example = f", such as {next(iter(tensors))}" if tensors else ""
        raise DataError(
            f"{path}: no state dict of a GoogLeNet (the article's, torchvision's or the CIFAR "
            f"zoo's); it has {len(tensors)} tensors{example}"
        )
    return TorchFile(tensors, layout, extra, hashlib.sha256(content).hexdigest())


def _checked(path: Path, name: str, value: np.ndarray) -> np.ndarray:
    """A weight as float32, or the number of steps that a BatchNorm has seen."""
    if name.endswith(COUNTER):
        if value.shape == () and value.dtype.kind in "iuf" and 0 <= value < 2**31:
            return value
    elif value.dtype.kind == "f":
        with np.errstate(over="ignore"):  # it is refused
            value = value.astype(np.float32)
        if np.isfinite(value).all():
            return value
        raise DataError(f"{path}: {name} has values that are not finite")
    raise DataError(f"{path}: {name} is {value.dtype} {value.shape}, no weight")


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
    _check_archive(content)
    try:
        _check_pickles(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is then refused, or of no consequence
            loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch's own message tells how to run the code in the file.
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
    # A stride of 0, or one storage for many, would take more memory than there is in the file.
    size = sum(value.numel() * value.element_size() for value in tensors.values())
    if size > len(content) or any(value.is_sparse for value in tensors.values()):
        raise DataError(f"claims {size:,} bytes of tensors and has {len(content):,}")
    return {
        name: (value.float() if value.is_floating_point() else value).detach().numpy()
        for name, value in tensors.items()
    }, extra


def _is_remark(value: Any) -> bool:
    """Whether it is a number or a text that may stand in a record of ours."""
    if isinstance(value, str):
        return len(value) <= MAX_REMARK
    return isinstance(value, int | float) and math.isfinite(value) and abs(value) < 2**63


def _check_archive(content: bytes) -> None:
    """Refuses what PyTorch would unpack without a word: records that are damaged or packed.

    PyTorch stores its records as they are, and reads them without looking at their checksums.

    Raises:
      DataError: names the record.
    """
    if not content.startswith(b"PK"):  # the older format, which has neither
        return
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        records = archive.infolist()
        if len({record.filename for record in records}) < len(records):
            raise DataError("it has two records of one name")
        for record in records:
            if record.compress_type != zipfile.ZIP_STORED:
                raise DataError(f"its record {record.filename} is packed, which PyTorch's are not")
        if damaged := archive.testzip():
            raise DataError(f"its record {damaged} is damaged: its checksum is another one")


def _check_pickles(content: bytes) -> None:
    """Refuses tuples that hold the same tuples again and again.

    They are small, and take for ever to hash, which PyTorch does where they stand as keys.

    Raises:
      pickle.UnpicklingError: there are such, or it is no pickle.
    """
    if content.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = [name for name in archive.namelist() if name.endswith("data.pkl")]
            files = [io.BytesIO(archive.read(name)) for name in names]
    else:  # a magic number, a version, a machine, the object and the keys of its storages
        files = [io.BytesIO(content)] * 5
    for file in files:
        try:
            _check_tuples(file)
        except (ValueError, IndexError) as error:
            raise pickle.UnpicklingError(str(error)) from error


def _check_tuples(file: io.BytesIO) -> None:
    """Goes through one pickle and keeps for each object its size: for a tuple, of all in it."""
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
    """Whose names there are for all layers of a GoogLeNet; the article's, if nobody's are.

    Args:
      params: of a `TrainState`.
    """
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
      layout: see the module.
      path: of the array, such as ("inception3a", "conv1x1", "conv", "kernel"); a layer that the
        other program lacks keeps this project's name.
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
      path: as in `torch_name`.
      value: the array.
      head_channels: of an auxiliary head's convolution, which its fc1 sees flattened.
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
      params: of a `TrainState`.
      batch_stats: likewise.
      steps: that BatchNorm has seen.
      layout: see the module.
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
    """Parameters, statistics and BatchNorm's steps of a file, in the shapes of a network's.

    Args:
      params: of the network, or their shapes.
      batch_stats: likewise.
      file: of PyTorch's.

    Raises:
      DataError: lists the tensors that are missing, surplus or of another shape, up to `LISTED`
        of each.
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
    """The config of the network that a file holds, and the images that it was made for.

    Ten classes are taken for CIFAR-10's and a hundred for CIFAR-100's. The max pools leave no
    trace in a file: a stem of 7x7 in the article's names is taken for rows 1 and 2 where the
    classes are CIFAR's, and for the paper's network at 224x224 otherwise.

    Args:
      file: of PyTorch's.
      transform_input: as in torchvision's constructor; of its own weights it is True.

    Raises:
      DataError: it lacks the tensors that would tell, or the images cannot be told.
    """
    first, last = ("pre_layers.0", "linear") if file.layout == "zoo" else ("conv1.conv", "fc")
    kernel, weight = (file.tensors.get(f"{name}.weight", np.empty(0)) for name in (first, last))
    if kernel.ndim != 4 or weight.ndim != 2 or not kernel.size or not weight.size:
        raise DataError(f"it has no {first}.weight and {last}.weight of a network")
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
        class_names = tuple(map(str, range(len(weight))))  # a state dict has no names
        # Torchvision evaluates the central 224 pixels of a shorter side of 256.
        info = DatasetInfo("imagenet2012", class_names, image_shape, mean, std, 224 / 256)
    elif data:
        model.pools = "4" if model.stem == "7x7" else model.pools
        name, info = data, FORMATS[data].info
    else:
        raise DataError(
            f"it has {len(weight)} classes, and its images cannot be told; name their data set "
            "and the network with --config"
        )
    if in_channels != info.image_shape[2]:
        raise DataError(
            f"its images have {in_channels} channels, those of {info.name} have "
            f"{info.image_shape[2]}; name the data set and the network with --config"
        )
    return Config(model=model, data=DataConfig(name=name)), info


def _leaves(tree: PyTree) -> Iterator[tuple[tuple[str, ...], Any]]:
    for path, value in jax.tree_util.tree_leaves_with_path(tree):
        yield tuple(key.key for key in path), value


def _head_channels(params: PyTree) -> int:
    return params["aux1"]["conv"]["conv"]["kernel"].shape[-1] if "aux1" in params else 1
