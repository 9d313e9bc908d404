"""Every setting of a run: its default, its meaning and the values it may have.

This is the only place in which a default lives. The defaults are the article's 95.16 % network
and recipe on CIFAR-10; a file under `configs/` states what differs from them. Values are plain
int, float, str and bool, with 0 or "" for "not set", because the command line's parser
(ml_collections) mishandles Optional and Literal fields.
"""

import dataclasses
import difflib
import itertools
import math
import re
from collections.abc import Iterator
from typing import Any, Self

from googlenet_jax.errors import ConfigError


def _option(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] | tuple[int, ...] = (),
    prefix: str = "",
    pattern: str = "",
    example: str = "",
    minimum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    maximum: float | None = None,
    resumable: bool = False,
    only: str = "",
) -> Any:
    """A config field that knows its meaning and its range.

    Args:
      default: of the field.
      help: its meaning.
      choices: all values that it may have.
      prefix: of others that it may have.
      pattern: regular expression of them.
      example: of what matches the pattern.
      minimum: of a number.
      above: what it must exceed.
      below: what it must not reach.
      maximum: of a number.
      resumable: whether a resumed run may change it.
      only: the `model.name` to whose networks alone it means something.
    """
    names = [*map(str, choices), *([f"{prefix}NAME"] if prefix else [])]
    limits = [
        f"such as {example}" if example else "",
        f"one of {', '.join(names)}" if names else "",
        f"at least {minimum}" if minimum is not None else "",
        f"greater than {above}" if above is not None else "",
        f"less than {below}" if below is not None else "",
        f"at most {maximum}" if maximum is not None else "",
        "finite" if isinstance(default, float) and below is None and maximum is None else "",
    ]

    def is_allowed(value: Any) -> bool:
        return (
            (not choices or value in choices or (prefix != "" and value.startswith(prefix)))
            and (not pattern or re.fullmatch(pattern, value) is not None)
            and (minimum is None or value >= minimum)
            and (above is None or value > above)
            and (below is None or value < below)
            and (maximum is None or value <= maximum)
            and value != math.inf
        )

    return dataclasses.field(
        default=default,
        metadata={
            "help": help,
            "limits": " and ".join(filter(None, limits)),
            "is_allowed": is_allowed,
            "resumable": resumable,
            "only": only,
        },
    )


@dataclasses.dataclass(slots=True)  # a misspelt field of a config file is an error
class ModelConfig:
    """The network."""

    name: str = _option("googlenet", "architecture", choices=("googlenet", "preact_resnet"))
    width_multiplier: float = _option(
        1.0, "factor on every layer's channel count", above=0, below=100
    )
    image_size: int = _option(
        0,
        "pixels; images are resized to squares of this side for the network; 0: as they are",
        minimum=0,
        below=2**12,
    )
    depth: int = _option(164, "layers, 9 n + 2", minimum=11, below=2000, only="preact_resnet")
    stem: str = _option(
        "3x3",
        "the first convolutions: 3x3/1 or 7x7/2 to 64 channels, then 3x3 to 192; "
        "single: 3x3/1 to 192",
        choices=("3x3", "7x7", "single"),
        only="googlenet",
    )
    conv2_reduce: bool = _option(
        False, "a 1x1 convolution to 64 channels before conv2, as in the paper", only="googlenet"
    )
    pools: str = _option(
        "34",
        "which of the trunk's max pools 1 to 4 there are",
        choices=("1234", "34", "4"),
        only="googlenet",
    )
    pool4_window: int = _option(3, "side of maxpool4's window", choices=(3, 2), only="googlenet")
    pool_padding: str = _option(
        "ceil",
        "padding of the trunk's max pools; ceil: keep the last partial window; one: 1 pixel around",
        choices=("ceil", "one"),
        only="googlenet",
    )
    conv5x5: str = _option(
        "5x5",
        "the 5x5 convolutions: as they are, as one 3x3 (torchvision's) or as two",
        choices=("5x5", "3x3", "two_3x3"),
        only="googlenet",
    )
    batch_norm: bool = _option(
        True, "BatchNorm between each convolution and its ReLU", only="googlenet"
    )
    bn_epsilon: float = _option(1e-5, "BatchNorm's epsilon", above=0, below=1)
    bn_momentum: float = _option(
        0.9,
        "share of BatchNorm's running values that a step keeps; PyTorch's momentum is 1 minus it",
        minimum=0,
        below=1,
    )
    conv_bias: bool = _option(True, "a bias in each convolution")
    init: str = _option(
        "fan_out",
        "initial weights are Kaiming uniform over this: fan_out as in the article, or fan_in, "
        "which networks without BatchNorm need, and classifiers of few classes",
        choices=("fan_out", "fan_in"),
    )
    aux_heads: bool = _option(
        False, "classifiers on inception4a and 4d, in training only", only="googlenet"
    )
    aux_pool: str = _option(
        "5x5/3",
        "average pooling of the auxiliary heads; adaptive: torchvision's, to 4x4",
        choices=("5x5/3", "adaptive"),
        only="googlenet",
    )
    dropout_rate: float = _option(
        0.4, "dropout before the classifier", minimum=0, below=1, only="googlenet"
    )
    aux_dropout_rate: float = _option(
        0.7, "dropout in the auxiliary heads", minimum=0, below=1, only="googlenet"
    )
    dtype: str = _option(
        "float32",
        "compute type; parameters and BatchNorm statistics stay float32",
        choices=("float32", "bfloat16"),
    )
    matmul_precision: str = _option(
        "default",
        "precision of float32 matrix units (default: TF32 on an A100 or H100, bfloat16 passes on "
        "a TPU; highest: float32)",
        choices=("default", "high", "highest"),
    )


@dataclasses.dataclass(slots=True)
class DataConfig:
    """The images and their augmentation."""

    name: str = _option(
        "cifar10",
        "data set; tfds:NAME is an image classification set that TFDS has prepared, folder has a "
        "folder of pictures for each class (or train, val and test folders that do)",
        choices=("cifar10", "cifar100", "digits", "folder"),
        prefix="tfds:",
    )
    path: str = _option(
        "", "archive or folder of the data set, where it is not TFDS's usual one", resumable=True
    )
    unofficial: bool = _option(
        False, "accept data whose checksum is not the official one; recorded in summary.json"
    )
    cache: bool = _option(
        True, "keep what was decoded of PNG images in the user's cache folder", resumable=True
    )
    valid_examples: int = _option(
        0, "training images set apart, class by class, to choose the best checkpoint on", minimum=0
    )
    max_train_examples: int = _option(0, "train on the first N images only; 0: all", minimum=0)
    downscale: int = _option(
        1, "average squares of N x N pixels into one, for runs that must be cheap", minimum=1
    )
    pad: int = _option(
        4, "pixels added on each side before the random crop; 0: none", minimum=0, below=256
    )
    pad_mode: str = _option("reflect", "what is added", choices=("reflect", "zeros"))
    flip: bool = _option(True, "mirror a random half of the images")
    alternate_flip: bool = _option(
        False, "mirror the other half of the images in every second epoch, instead of a random half"
    )
    cutout: int = _option(
        0,
        "side in pixels of a square that is set to the mean colour in each image; 0: none",
        minimum=0,
        below=2**12,
    )
    mixup: float = _option(
        0.0,
        "alpha of mixup, which adds two images and their labels; 0: never",
        minimum=0,
        below=1000,
    )
    cutmix: float = _option(
        0.0,
        "alpha of CutMix, which puts a box of one image into another; 0: never",
        minimum=0,
        below=1000,
    )
    stream: bool = _option(
        False,
        "decode pictures of any size as they are needed, instead of holding all in memory, as "
        "data.name=folder always does",
    )
    workers: int = _option(
        0,
        "processes that decode the stream's pictures; 0: threads",
        minimum=0,
        below=1000,
        resumable=True,
    )
    crop_size: int = _option(
        224, "pixels; side of the squares that a stream cuts out", minimum=1, below=2**12
    )
    crop_area: float = _option(
        0.08, "least share of a picture that a stream's random crop keeps", above=0, maximum=1
    )
    corrupt: str = _option(
        "refuse",
        "what becomes of a stream's picture that cannot be decoded: the run ends, or goes on "
        "without it",
        choices=("refuse", "skip"),
        resumable=True,
    )
    classes: str = _option(
        "",
        "file with a class a line: its folder's name and, after a space, what it is called; "
        'data.name="folder" has the training folders, sorted, without it',
        resumable=True,
    )
    test_examples: int = _option(
        0,
        "images set apart, class by class, to test on, where a folder has none for it",
        minimum=0,
    )

    @property
    def is_streamed(self) -> bool:
        """Whether pictures are decoded as they are needed."""
        return self.stream or self.name == "folder"


@dataclasses.dataclass(slots=True)
class OptimizerConfig:
    """The update rule and its learning rate."""

    name: str = _option("sgd", "update rule", choices=("sgd", "adam"))
    learning_rate: float = _option(0.1, "highest learning rate", above=0)
    momentum: float = _option(
        0.9, "share of the last update that is kept; Adam's beta1", minimum=0, below=1
    )
    weight_decay: float = _option(
        5e-4,
        "L2 penalty on every parameter, added to the gradient before momentum or Adam's moments",
        minimum=0,
    )
    nesterov: bool = _option(False, "use Nesterov's momentum")
    decay_kernels_only: bool = _option(
        False, "no weight decay on biases and on BatchNorm's scale and bias"
    )
    norm_bias_factor: float = _option(
        1.0, "factor of the learning rate for BatchNorm's biases", above=0, below=10**6
    )
    schedule: str = _option(
        "cosine",
        "learning rate over time",
        choices=("cosine", "step", "exponential", "linear", "one_cycle", "constant"),
    )
    schedule_per: str = _option(
        "epoch", "when the schedule takes its next value", choices=("epoch", "step")
    )
    decay_at: str = _option(
        "",
        "shares of the run's steps at which schedule=step divides the learning rate by 10",
        pattern=r"(0?\.\d+(,0?\.\d+)*)?",
        example="0.5,0.75",
    )
    decay_factor: float = _option(
        0.96,
        "what schedule=exponential multiplies the learning rate by",
        above=0,
        below=1,
    )
    decay_epochs: float = _option(
        8.0, "epochs after which it does so, again and again", above=0, below=10**6
    )
    warmup_epochs: float = _option(
        0.0,
        "epochs of warm-up, in which the learning rate is lower",
        minimum=0,
        below=10**6,
    )
    warmup: str = _option(
        "linear",
        "the warm-up: a linear rise, step by step, or a tenth of the rate all the while",
        choices=("linear", "constant"),
    )


@dataclasses.dataclass(slots=True)
class TrainConfig:
    """How long and from where to train."""

    batch_size: int = _option(128, "images a step; an incomplete last batch is left out", minimum=1)
    epochs: int = _option(
        100, "passes over the training images", minimum=1, below=2**31, resumable=True
    )
    steps: int = _option(
        0,
        "optimizer steps; where it is not 0 it stands in for epochs",
        minimum=0,
        below=2**31,
        resumable=True,
    )
    aux_loss_weight: float = _option(
        0.3, "weight of each auxiliary head's loss beside the classifier's", minimum=0, below=10**6
    )
    label_smoothing: float = _option(
        0.0,
        "share of the training loss that is taken from the label and spread over all classes",
        minimum=0,
        below=1,
    )
    ema_decay: float = _option(
        0.0,
        "share of the moving average of the weights that each step keeps; evaluation, export and "
        "prediction then use the average; 0: none",
        minimum=0,
        below=1,
    )
    init_from: str = _option(
        "", "working directory, whose best weights the run starts from, or export"
    )
    steps_per_call: int = _option(
        0,
        "steps a call of the compiled program, between which signals and the bar are served; "
        "0: as many as take half a second",
        minimum=0,
        below=2**31,
        resumable=True,
    )
    compilation_cache: bool = _option(
        True,
        "keep compiled programs in the user's cache folder, or in JAX_COMPILATION_CACHE_DIR",
        resumable=True,
    )


@dataclasses.dataclass(slots=True)
class CheckpointConfig:
    """When to save, beside the end of each epoch."""

    every_steps: int = _option(
        0, "also save every N steps; 0: at epochs' ends only", minimum=0, resumable=True
    )


@dataclasses.dataclass(slots=True)
class EvalConfig:
    """When and how to evaluate."""

    every_epochs: int = _option(1, "evaluate every N epochs, and at the end", minimum=1)
    batch_size: int = _option(250, "images a step of evaluation", minimum=1, below=10**6)


NEEDS = {
    "model.aux_pool": "model.aux_heads",
    "model.aux_dropout_rate": "model.aux_heads",
    "train.aux_loss_weight": "model.aux_heads",
    "model.bn_epsilon": "model.batch_norm",
    "model.bn_momentum": "model.batch_norm",
    "optimizer.warmup": "optimizer.warmup_epochs",
    "data.workers": "data.stream",
    "data.crop_size": "data.stream",
    "data.crop_area": "data.stream",
    "data.corrupt": "data.stream",
}
"""Settings that mean something only where another one is on."""

NEEDS_VALUE = {
    "optimizer.decay_factor": ("optimizer.schedule", "exponential"),
    "optimizer.decay_epochs": ("optimizer.schedule", "exponential"),
    "data.classes": ("data.name", "folder"),
    "data.test_examples": ("data.name", "folder"),
}
"""Settings that mean something only with one value of another one."""


@dataclasses.dataclass(slots=True)
class Config:
    """A whole run."""

    seed: int = _option(
        0,
        "weights, order, augmentation, dropout and validation split follow from it",
        minimum=0,
        below=2**32,  # all that a JAX key takes of it
    )
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    eval: EvalConfig = dataclasses.field(default_factory=EvalConfig)

    def options(self) -> Iterator[tuple[str, dataclasses.Field, Any]]:
        """Yields (dotted name, field, value) of every setting.

        Raises:
          ConfigError: one is missing, or something else stands in a group's place.
        """
        for field in dataclasses.fields(self):
            value = _present(self, field.name)
            group = field.default_factory
            if group is dataclasses.MISSING:
                yield field.name, field, value
            elif type(value) is not group:
                name = getattr(group, "__name__", group)
                raise ConfigError(f"{field.name}={value!r}: must be a group of fields, a {name}")
            else:
                for inner in dataclasses.fields(value):
                    yield f"{field.name}.{inner.name}", inner, _present(value, inner.name)

    def validate(self) -> Self:
        """Returns the config itself.

        Raises:
          ConfigError: a value has the wrong type or is out of range; names the field, the value
            and what is allowed.
        """
        for name, field, value in [*self.options()]:  # all groups are there, before one is used
            expected = type(field.default)
            # An integer is a fine float; True is not a fine integer.
            if type(value) is not expected and not (expected is float and type(value) is int):
                raise ConfigError(f"{name}={value!r}: must be of type {expected.__name__}")
            if not field.metadata["is_allowed"](value):
                raise ConfigError(f"{name}={value!r}: must be {field.metadata['limits']}")
            only = field.metadata["only"]
            if only not in ("", self.model.name) and value != field.default:
                raise ConfigError(f"{name}={value!r}: only networks of model.name={only} have it")
        self._check_together()
        return self

    def _check_together(self) -> None:
        """Refuses values that are allowed each by itself, but not beside each other."""
        model, optimizer = self.model, self.optimizer
        values = {name: value for name, _, value in self.options()}
        values["data.stream"] = self.data.is_streamed
        for name, field, value in self.options():
            other = NEEDS.get(name, name)
            if value != field.default and other != name and not values[other]:
                raise ConfigError(f"{name}={value!r}: means nothing with {other}={values[other]!r}")
            other, needed = NEEDS_VALUE.get(name, (name, value))
            if value != field.default and values[other] != needed:
                raise ConfigError(f"{name}={value!r}: means nothing without {other}={needed!r}")
        self._check_data()
        if (model.depth - 2) % 9:
            raise ConfigError(f"model.depth={model.depth}: must be 9 n + 2, such as 11, 20 or 164")
        if model.stem == "single" and model.conv2_reduce:
            raise ConfigError("model.conv2_reduce=True: model.stem='single' has no conv2")
        shares = [float(share) for share in optimizer.decay_at.split(",") if share]
        if any(a >= b for a, b in itertools.pairwise([0.0, *shares])):
            raise ConfigError(f"optimizer.decay_at={optimizer.decay_at!r}: must rise, from above 0")
        if (optimizer.schedule == "step") != bool(optimizer.decay_at):
            raise ConfigError(
                f"optimizer.decay_at={optimizer.decay_at!r}: optimizer.schedule='step' needs it, "
                f"and no other; the schedule is {optimizer.schedule!r}"
            )

    def _check_data(self) -> None:
        config = self.data
        if config.stream and not config.name.startswith(("tfds:", "folder")):
            raise ConfigError(
                f"data.stream=True: data.name must be folder or tfds:NAME, not {config.name!r}"
            )
        if config.is_streamed and config.downscale > 1:
            raise ConfigError(
                f"data.downscale={config.downscale}: a stream has data.crop_size instead"
            )

    def to_dict(self) -> dict[str, Any]:
        """The config as nested plain values, as in config.json."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """The inverse of `to_dict`; fields that are absent keep their defaults.

        Raises:
          ConfigError: a field is unknown or has a value that is not allowed.
        """
        if not isinstance(values, dict):
            raise ConfigError(f"{values!r}: must be a group of fields")
        config = cls()
        for name, value in values.items():
            check_name(name)
            if not hasattr(config, name):
                group, _, inner = name.partition(".")
                raise ConfigError(f"{name}: write {inner} inside {group}")
            group = getattr(config, name)
            if not dataclasses.is_dataclass(group):
                setattr(config, name, value)
            elif not isinstance(value, dict):
                raise ConfigError(f"{name}={value!r}: must be a group of fields")
            else:
                for inner, inner_value in value.items():
                    check_name(f"{name}.{inner}")
                    setattr(group, inner, inner_value)
        return config.validate()


def _present(group: Any, name: str) -> Any:
    try:
        return getattr(group, name)
    except AttributeError:  # a config file may have deleted it
        raise ConfigError(f"{name}: is missing from {type(group).__name__}") from None


def check_name(name: str) -> str:
    """Returns `name` if it is a setting's dotted name or a group's.

    Raises:
      ConfigError: it is neither; suggests the nearest name.
    """
    names = [option for option, _, _ in Config().options()]
    if name in names or any(option.startswith(f"{name}.") for option in names):
        return name
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0)
    raise ConfigError(f"{name}: no such field; did you mean {nearest[0]}?")
