"""Every setting of a run: its default, its meaning, its range and what it depends on.

No default is repeated anywhere else. The defaults are the 95.16 % network and recipe on CIFAR-10
(row 8) of the web article "GoogLeNet在cifar10上也能达到95%准确率?" ("Can GoogLeNet reach 95 % on
CIFAR-10 too?", copy of 2024-03-22), called "the article" throughout the project. "The paper" is
Szegedy et al., "Going Deeper with Convolutions" (2014). A file under `configs/` states what differs
from the defaults.

Values are plain int, float, str and bool, with 0 or "" for "not set", because the command line's
parser (ml_collections) mishandles Optional and Literal fields.
"""

import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

from googlenet_jax.errors import ConfigError


def _option(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] | tuple[int, ...] = (),
    minimum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    maximum: float | None = None,
    check: tuple[Callable[[Any], bool], str] | None = None,
    needs: str = "",
    resumable: bool = False,
) -> Any:
    """A dataclass field whose metadata describe the setting and check its value.

    `choices` are all allowed values; "tfds:NAME" stands for any text after "tfds:". A number must
    not reach `above` or `below`. `check` is a further test, with the words that follow "must be" in
    its error. `needs` are conditions on other settings, such as "model.aux_heads=True" ("and" binds
    more tightly than "or"): unless they hold, this one has no effect and must keep its default. A
    resumed run may change what is `resumable`.
    """
    checks = [check] if check else []
    if choices:
        names = ", ".join(map(str, choices))
        checks.append((lambda value: _is_choice(value, choices), f"one of {names}"))
    if minimum is not None:
        checks.append((lambda value: value >= minimum, f"at least {minimum}"))
    if above is not None:
        checks.append((lambda value: value > above, f"greater than {above}"))
    if below is not None:
        checks.append((lambda value: value < below, f"less than {below}"))
    if maximum is not None:
        checks.append((lambda value: value <= maximum, f"at most {maximum}"))
    if isinstance(default, float) and below is None and maximum is None:
        checks.append((_is_finite, "finite"))
    return dataclasses.field(
        default=default,
        metadata={
            "help": f"{help}; only with {needs}" if needs else help,
            "limits": " and ".join(description for _, description in checks),
            "is_allowed": lambda value: all(is_allowed(value) for is_allowed, _ in checks),
            "needs": needs,
            "resumable": resumable,
        },
    )


def _is_choice(value: Any, choices: tuple[Any, ...]) -> bool:
    kind, _, name = str(value).partition(":")
    return value in choices or (name != "" and f"{kind}:NAME" in choices)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def _are_rising_shares(text: str) -> bool:
    if not re.fullmatch(r"0?\.\d+(,0?\.\d+)*", text):
        return text == ""
    shares = [0.0, *map(float, text.split(","))]
    return shares == sorted(set(shares))


def _are_weights(text: str) -> bool:
    if text in ("", "balanced"):
        return True
    numbers = re.fullmatch(r"\d*\.?\d+(,\d*\.?\d+)*", text)
    return bool(numbers) and all(0 < float(each) < math.inf for each in text.split(","))


@dataclasses.dataclass(slots=True)  # slots: a misspelt field in a config file is an error
class ModelConfig:
    """The network."""

    name: str = _option("googlenet", "architecture", choices=("googlenet", "preact_resnet"))
    width_multiplier: float = _option(
        1.0, "factor on the number of channels of every layer", above=0, below=100
    )
    image_size: int = _option(
        0, "side, in pixels, to which images are resized; 0: as they are", minimum=0, below=2**12
    )
    depth: int = _option(
        164,
        "number of layers",
        minimum=11,
        below=2000,
        check=(lambda depth: depth % 9 == 2, "9 n + 2 (such as 20 or 164)"),
        needs="model.name=preact_resnet",
    )
    stem: str = _option(
        "3x3",
        "first convolutions; 3x3: one 3x3 with stride 1 to 64 channels, then one 3x3 to 192; 7x7: "
        "the same, but first one 7x7 with stride 2; single: one 3x3 with stride 1 to 192 channels",
        choices=("3x3", "7x7", "single"),
        needs="model.name=googlenet",
    )
    conv2_reduce: bool = _option(
        False,
        "add a 1x1 convolution to 64 channels before conv2, as in the paper",
        needs="model.name=googlenet and model.stem!=single",
    )
    pools: str = _option(
        "34",
        "which of maxpool1 to maxpool4 to keep",
        choices=("1234", "34", "4"),
        needs="model.name=googlenet",
    )
    pool4_window: int = _option(
        3, "side of maxpool4's window, in pixels", choices=(3, 2), needs="model.name=googlenet"
    )
    pool_padding: str = _option(
        "ceil",
        "padding of maxpool1 to maxpool4; ceil: PyTorch's ceil_mode; one: 1 pixel on each side",
        choices=("ceil", "one"),
        needs="model.name=googlenet",
    )
    conv5x5: str = _option(
        "5x5",
        "what the 5x5 convolutions are; 3x3: one 3x3 (torchvision); two_3x3: two 3x3 in a row",
        choices=("5x5", "3x3", "two_3x3"),
        needs="model.name=googlenet",
    )
    batch_norm: bool = _option(
        True, "use BatchNorm between each convolution and its ReLU", needs="model.name=googlenet"
    )
    bn_epsilon: float = _option(
        1e-5, "BatchNorm's epsilon", above=0, below=1, needs="model.batch_norm=True"
    )
    bn_momentum: float = _option(
        0.9,
        "share of the running statistics that a step keeps; PyTorch's momentum is 1 minus this",
        minimum=0,
        below=1,
        needs="model.batch_norm=True",
    )
    conv_bias: bool = _option(True, "add a bias to each convolution")
    init: str = _option(
        "fan_out",
        "initial weights: Kaiming uniform over the fan-out, as in the article, or over the fan-in, "
        "which networks without BatchNorm and classifiers of few classes need",
        choices=("fan_out", "fan_in"),
    )
    aux_heads: bool = _option(
        False,
        "add auxiliary classifiers after inception4a and inception4d, for training only",
        needs="model.name=googlenet",
    )
    aux_pool: str = _option(
        "5x5/3",
        "the heads' average pooling; 5x5/3: 5x5, stride 3; adaptive: to 4x4, as in torchvision",
        choices=("5x5/3", "adaptive"),
        needs="model.aux_heads=True",
    )
    dropout_rate: float = _option(
        0.4, "dropout rate before the classifier", minimum=0, below=1, needs="model.name=googlenet"
    )
    aux_dropout_rate: float = _option(
        0.7, "dropout rate in auxiliary heads", minimum=0, below=1, needs="model.aux_heads=True"
    )
    dtype: str = _option(
        "float32",
        "type in which the network computes; parameters and BatchNorm statistics stay float32",
        choices=("float32", "bfloat16"),
    )
    remat: bool = _option(
        False,
        "rematerialisation: training keeps the input of each block (Inception or bottleneck) and "
        "computes what is inside again for the gradient, which needs less memory and more time",
    )
    matmul_precision: str = _option(
        "default",
        "precision of float32 matrix products and convolutions; default: TF32 on an A100 or H100, "
        "bfloat16 passes on a TPU; highest: float32",
        choices=("default", "high", "highest"),
    )


TTA = ("none", "mirror", "shifts")
"""Kinds of test-time augmentation; see `data.augment.views`."""

_STREAM = "data.stream=True or data.name=folder"


@dataclasses.dataclass(slots=True)
class DataConfig:
    """The images and their augmentation."""

    name: str = _option(
        "cifar10",
        "data set; folder: a folder of pictures for each class, or train, val and test folders of "
        "such folders, on a disk or in a zip or tar archive, or pictures that a CSV file or "
        "parquet files list; tfds:NAME: an image classification set that TFDS has prepared",
        choices=("cifar10", "cifar100", "digits", "folder", "tfds:NAME"),
    )
    path: str = _option(
        "", "archive or folder of the data set; empty: TFDS's usual folder", resumable=True
    )
    unofficial: bool = _option(
        False, "accept data whose checksum is not the official one; recorded in summary.json"
    )
    cache: bool = _option(
        True, "keep decoded PNG and JPEG images in the user's cache folder", resumable=True
    )
    valid_examples: int = _option(
        0,
        "training images set apart for validation, equally many of each class; the best checkpoint "
        "is chosen on them",
        minimum=0,
    )
    valid_share: float = _option(
        0.0,
        "share of each class's training images set apart for validation",
        minimum=0,
        below=1,
        needs="data.valid_examples=0",
    )
    sampling: str = _option(
        "shuffle",
        "images of an epoch; shuffle: each of them once; balanced: drawn at random, so that all "
        "classes come equally often, however many images they have",
        choices=("shuffle", "balanced"),
    )
    max_train_examples: int = _option(0, "train on the first N images only; 0: all", minimum=0)
    downscale: int = _option(
        1,
        "average squares of N x N pixels into one, for cheap runs; for streams use data.crop_size",
        minimum=1,
        needs="data.stream=False and data.name!=folder",
    )
    pad: int = _option(
        4, "pixels added on each side before a random crop; 0: no crop", minimum=0, below=256
    )
    pad_mode: str = _option(
        "reflect", "added pixels: the mirrored border or black", choices=("reflect", "zeros")
    )
    flip: bool = _option(True, "mirror each training image left to right with probability 1/2")
    alternate_flip: bool = _option(
        False,
        "mirror a random half of the images in the first epoch, the other half in the second, and "
        "so on in turn",
        needs="data.flip=True and data.stream=False and data.name!=folder",
    )
    cutout: int = _option(
        0,
        "side in pixels of a square that is set to the mean colour in each training image; 0: none",
        minimum=0,
        below=2**12,
    )
    mixup: float = _option(
        0.0,
        "mixup: alpha of the Beta distribution of the share with which two images and their "
        "labels are added; 0: none",
        minimum=0,
        below=1000,
    )
    cutmix: float = _option(
        0.0,
        "CutMix: alpha of the Beta distribution of the share of an image that another one covers; "
        "0: none; with mixup, each batch has one of the two at random",
        minimum=0,
        below=1000,
    )
    stream: bool = _option(
        False,
        "decode pictures of any size when they are needed, instead of holding all of them in "
        "memory; data.name=folder always does so",
        needs="data.name=tfds:NAME or data.name=folder",
    )
    workers: int = _option(
        0, "decoding processes; 0: threads", minimum=0, below=1000, needs=_STREAM, resumable=True
    )
    crop_size: int = _option(
        224, "side of a stream's square crops, in pixels", minimum=1, below=2**12, needs=_STREAM
    )
    crop_area: float = _option(
        0.08, "smallest share of a picture in a random crop", above=0, maximum=1, needs=_STREAM
    )
    corrupt: str = _option(
        "refuse",
        "what happens if a picture cannot be decoded; refuse: end the run; skip: do without it",
        choices=("refuse", "skip"),
        needs=_STREAM,
        resumable=True,
    )
    classes: str = _option(
        "",
        "text file with one class per line: the name of its folder and, after a space, the name to "
        "show; empty: the training folders, sorted",
        needs="data.name=folder",
        resumable=True,
    )
    columns: str = _option(
        "",
        "columns of a CSV file or of parquet files that hold the pictures and their labels, with a "
        "comma between them; empty: usual names, such as image,label",
        needs="data.name=folder",
    )
    pictures: str = _option(
        "",
        "folder to which the names in a CSV file are relative; empty: the file's own",
        needs="data.name=folder",
        resumable=True,
    )
    test_examples: int = _option(
        0,
        "images set apart for testing, equally many of each class, if there is no test folder",
        minimum=0,
        needs="data.name=folder",
    )
    test_share: float = _option(
        0.0,
        "share of each class's images set apart for testing, if there is no test folder",
        minimum=0,
        below=1,
        needs="data.test_examples=0 and data.name=folder",
    )

    @property
    def is_streamed(self) -> bool:
        """Whether pictures are decoded when they are needed."""
        return self.stream or self.name == "folder"


@dataclasses.dataclass(slots=True)
class OptimizerConfig:
    """The update rule and its learning rate."""

    name: str = _option("sgd", "update rule", choices=("sgd", "adam"))
    learning_rate: float = _option(0.1, "highest learning rate", above=0)
    momentum: float = _option(0.9, "momentum of SGD, or Adam's beta1", minimum=0, below=1)
    weight_decay: float = _option(
        5e-4,
        "L2 penalty, added to the gradient before momentum or Adam's moments",
        minimum=0,
    )
    nesterov: bool = _option(False, "use Nesterov's momentum", needs="optimizer.name=sgd")
    decay_kernels_only: bool = _option(
        False, "no weight decay on biases and on BatchNorm's scale and bias"
    )
    norm_bias_factor: float = _option(
        1.0, "factor of the learning rate for BatchNorm's biases", above=0, below=10**6
    )
    trunk: str = _option(
        "",
        "name of a layer, as train.summarize prints it up to the first dot, such as inception4e: "
        "it and the layers before it, without auxiliary heads, are the trunk; empty: no trunk",
    )
    trunk_factor: float = _option(
        0.0,
        "factor of the learning rate for the trunk; 0: its weights stay as they are",
        minimum=0,
        below=10**6,
        needs="optimizer.trunk!=''",
    )
    trunk_stats: str = _option(
        "moving",
        "BatchNorm's statistics in the trunk; moving: as elsewhere; frozen: the running ones stay "
        "as they are, and normalise in training too",
        choices=("moving", "frozen"),
        needs="model.batch_norm=True and optimizer.trunk!=''",
    )
    schedule: str = _option(
        "cosine",
        "learning rate over time; cosine and linear: to 0; step: see decay_at; exponential: see "
        "decay_factor; one_cycle: up from 1/25 in 30 % of the steps, then down to 1/250,000",
        choices=("cosine", "step", "exponential", "linear", "one_cycle", "constant"),
    )
    schedule_per: str = _option(
        "epoch", "how often a cosine, step or linear schedule is updated", choices=("epoch", "step")
    )
    decay_at: str = _option(
        "",
        "shares of the run's steps after which the learning rate is divided by 10",
        check=(_are_rising_shares, "rising shares between 0 and 1, such as 0.5,0.75"),
        needs="optimizer.schedule=step",
    )
    decay_factor: float = _option(
        0.96,
        "factor on the learning rate every decay_epochs",
        above=0,
        below=1,
        needs="optimizer.schedule=exponential",
    )
    decay_epochs: float = _option(
        8.0,
        "epochs between two multiplications by decay_factor",
        above=0,
        below=10**6,
        needs="optimizer.schedule=exponential",
    )
    warmup_epochs: float = _option(
        0.0, "epochs of warm-up, at lower learning rates; 0: none", minimum=0, below=10**6
    )
    warmup: str = _option(
        "linear",
        "linear: rises step by step to the learning rate; constant: a tenth of it",
        choices=("linear", "constant"),
        needs="optimizer.warmup_epochs>0",
    )


@dataclasses.dataclass(slots=True)
class TrainConfig:
    """How long to train, and from which weights."""

    batch_size: int = _option(
        128, "images per step, over all devices; an incomplete last batch is dropped", minimum=1
    )
    accumulate: int = _option(
        1,
        "gradient accumulation: a batch is computed in N parts, one after the other, and their "
        "gradients are averaged, which needs less memory; BatchNorm and dropout see one part at a "
        "time",
        minimum=1,
        below=2**31,
    )
    epochs: int = _option(
        100, "passes over the training images", minimum=1, below=2**31, resumable=True
    )
    steps: int = _option(
        0,
        "optimizer steps of the whole run, in place of train.epochs; 0: train.epochs counts",
        minimum=0,
        below=2**31,
        resumable=True,
    )
    aux_loss_weight: float = _option(
        0.3,
        "weight of each auxiliary head's loss; the classifier's is 1",
        minimum=0,
        below=10**6,
        needs="model.aux_heads=True",
    )
    label_smoothing: float = _option(
        0.0,
        "share of the training loss that is averaged over all classes, not taken from the label",
        minimum=0,
        below=1,
    )
    class_weights: str = _option(
        "",
        "weights of the classes in the training loss, as in PyTorch's CrossEntropyLoss; balanced: "
        "in proportion to 1 / images of the class; empty: none",
        check=(_are_weights, "balanced or a number above 0 for each class, such as 1,2.5"),
    )
    ema_decay: float = _option(
        0.0,
        "decay, per step, of a moving average of the weights, which evaluation, export and "
        "prediction then use; 0: none",
        minimum=0,
        below=1,
    )
    init_from: str = _option(
        "", "initial weights: an export, or a working directory's best ones; empty: random"
    )
    steps_per_call: int = _option(
        0,
        "steps per call of the compiled program; signals and the progress bar are handled between "
        "calls; 0: as many as take half a second",
        minimum=0,
        below=2**31,
        resumable=True,
    )
    logger: str = _option(
        "none",
        "package that gets the scalars of each epoch, beside TensorBoard's files",
        choices=("none", "wandb", "mlflow", "trackio"),
        resumable=True,
    )
    compilation_cache: bool = _option(
        True,
        "keep compiled programs in JAX_COMPILATION_CACHE_DIR, or else in the user's cache folder",
        resumable=True,
    )

    @property
    def weights(self) -> str:
        """Which weights of a run are evaluated, exported and used for predictions."""
        if not self.ema_decay:
            return "those of the step"
        return f"moving average, decay {self.ema_decay:g}"


@dataclasses.dataclass(slots=True)
class CheckpointConfig:
    """When to save, apart from the end of each epoch."""

    every_steps: int = _option(
        0, "also save every N steps; 0: at the end of epochs only", minimum=0, resumable=True
    )


@dataclasses.dataclass(slots=True)
class EvalConfig:
    """When and how to evaluate."""

    every_epochs: int = _option(1, "evaluate every N epochs, and at the end of the run", minimum=1)
    batch_size: int = _option(
        250, "images per step of evaluation, over all devices", minimum=1, below=10**6
    )


@dataclasses.dataclass(slots=True)
class Config:
    """A whole run."""

    seed: int = _option(
        0,
        "random seed of the initial weights, the order of the images, augmentation, dropout and "
        "the validation split",
        minimum=0,
        below=2**32,  # a JAX key uses 32 bits of it
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
          ConfigError: A setting is missing, or a group is not of its class.
        """
        for field in dataclasses.fields(self):
            value = _get(self, field.name)
            group: Any = field.default_factory
            if group is dataclasses.MISSING:
                yield field.name, field, value
            elif type(value) is not group:
                raise ConfigError(f"{field.name}={value!r}: must be of type {group.__name__}")
            else:
                for inner in dataclasses.fields(value):
                    yield f"{field.name}.{inner.name}", inner, _get(value, inner.name)

    def validate(self) -> Self:
        """Returns the config itself if every value is allowed, and they are allowed together.

        Raises:
          ConfigError: A value is not allowed; names the setting, the value and what is allowed.
        """
        options = [*self.options()]
        values = {name: value for name, _, value in options}
        for name, field, value in options:
            expected = type(field.default)
            # An integer is a valid float, but True is not a valid integer.
            if type(value) is not expected and not (expected is float and type(value) is int):
                raise ConfigError(f"{name}={value!r}: must be of type {expected.__name__}")
            if not field.metadata["is_allowed"](value):
                raise ConfigError(f"{name}={value!r}: must be {field.metadata['limits']}")
        for name, field, value in options:
            needs = field.metadata["needs"]
            if value != field.default and needs and not _is_met(needs, values):
                raise ConfigError(
                    f"{name}={value!r}: must be {field.default!r}, the default, unless {needs}"
                )
        if self.optimizer.schedule == "step" and not self.optimizer.decay_at:
            raise ConfigError(
                "optimizer.decay_at='': must be set for optimizer.schedule=step, such as 0.5,0.75"
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """The config as nested plain values, as in config.json."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """The inverse of `to_dict`; settings that are absent keep their defaults.

        Raises:
          ConfigError: A setting is unknown or has a value that is not allowed.
        """
        if not isinstance(values, dict):
            raise ConfigError(f"{values!r}: must be a group of settings")
        config = cls()
        for name, value in values.items():
            if "." in check_name(name):
                group, inner = name.split(".")
                raise ConfigError(f"{name}: must be written as {inner} inside {group}")
            group = getattr(config, name)
            if not dataclasses.is_dataclass(group):
                setattr(config, name, value)
            elif not isinstance(value, dict):
                raise ConfigError(f"{name}={value!r}: must be a group of settings")
            else:
                for inner, inner_value in value.items():
                    check_name(f"{name}.{inner}")
                    setattr(group, inner, inner_value)
        return config.validate()


def _get(group: Any, name: str) -> Any:
    try:
        return getattr(group, name)
    except AttributeError:  # a config file may have deleted it
        raise ConfigError(f"{name}: is missing from {type(group).__name__}") from None


def _is_met(needs: str, values: Mapping[str, Any]) -> bool:
    def holds(condition: str) -> bool:
        name, operator, wanted = re.split("(=|!=|>)", condition)
        if operator == ">":
            return values[name] > float(wanted)
        return _is_choice(str(values[name]), (wanted.strip("'"),)) == (operator == "=")

    return any(all(map(holds, each.split(" and "))) for each in needs.split(" or "))


def check_name(name: str) -> str:
    """Returns `name` if it is the dotted name of a setting, or the name of a group.

    Raises:
      ConfigError: It is neither; suggests the nearest name.
    """
    names = [option for option, _, _ in Config().options()]
    if name in names or any(option.startswith(f"{name}.") for option in names):
        return name
    # Somebody may leave out the group, or write lr for learning_rate.
    fields = {option: option.rpartition(".")[2] for option in names}
    initials = {option: "".join(word[0] for word in fields[option].split("_")) for option in names}
    wanted = name.rpartition(".")[2]
    nearest = [option for option in names if wanted in (fields[option], initials[option])]
    nearest += difflib.get_close_matches(name, names, n=1, cutoff=0)
    raise ConfigError(f"{name}: no such field; did you mean {nearest[0]}?")
