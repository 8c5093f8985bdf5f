"""What a run is made of, as data: frozen dataclasses that refuse what cannot work.

An experiment is one `Config`, returned by `get_config()` of a file in `configs/`. The
command line overrides single fields (`--train.batch-size 64`). Names in a config stand
for functions; `ddpm_jax.build` is the one place that maps them.
"""

import dataclasses
import math
import reprlib
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from ddpm_jax.checks import (
    check_types,
    refuse,
    unless,
    unless_count,
    unless_positive,
    unless_probability,
)
from ddpm_jax.network_config import NetworkConfig as NetworkConfig
from ddpm_jax.network_config import digits_network as digits_network

SCHEDULE_FIELDS = {  # which fields a kind of schedule reads
    "linear": ("start", "end"),
    "cosine": ("offset", "max_beta"),
    "quadratic": ("start", "end"),
    "constant": ("end",),
    "warmup": ("start", "end", "fraction"),
    "jsd": (),
    "sigmoid": ("start", "end"),
    "explicit": ("betas",),
}
CLIP_FIELDS = {  # which fields a kind of clipping reads
    "none": (),
    "static": ("bound",),
    "dynamic": ("percentile", "max_value"),
}
_SHORT = reprlib.Repr()  # of a thousand betas, the first eight
_SHORT.maxtuple = 8
_SHORT.maxstring = _SHORT.maxother = 1000


SamplerName = Literal["ddpm", "ddim", "dpm_solver_pp", "unipc", "heun"]

# What a run was trained with whose config was stored before the field existed, where
# that is not today's default.
BEFORE: dict[str, Any] = {"optim.ema_warmup": False}


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the images come from.

    Raises:
        ValueError: if a field is of another type, or cannot work; it lists them all.
    """

    # "given": images that Python gives, ddpm_jax.train(config, workdir, data=images)
    source: Literal["digits", "folder", "tfds", "given"] = "digits"
    name: str = ""  # the TFDS name, e.g. "cifar10"
    # The image folder; for TFDS its data_dir (None = default). ~ is the user's home
    path: str | None = None
    split: str = "train"  # trained on; a folder holds one set and ignores no split
    test_split: str = "test"  # what likelihoods and distances are measured on
    image_size: int = 8  # height and width in pixels
    channels: int = 1  # 1 = grey, 3 = RGB
    num_classes: int | None = None  # None = unconditional: labels are not read
    # What label 0, 1, ... is called; None = the set's own names, a folder's in natural
    # order (1, 2, 10). A run keeps them in its checkpoints
    class_names: tuple[str, ...] | None = None
    flip: bool = False  # mirror each training image with probability 1/2
    resize: bool = False  # folder: crop and resize to image_size instead of refusing
    # What shows where an image is transparent: grey, or red, green, blue; 0..255 each
    background: int | tuple[int, int, int] = 255
    resident: bool = True  # hold the set on the devices; False streams it with Grain
    workers: int = 0  # streaming: worker processes that decode; 0 = this process

    def __post_init__(self):
        check_types("data", self)
        refuse(self._broken_rules())

    def _broken_rules(self) -> Iterator[str]:
        yield from unless_count("data.image_size", self.image_size)
        channels, workers = self.channels, self.workers
        yield from unless("data.channels", channels, channels in (1, 3), "1 or 3")
        yield from unless("data.workers", workers, workers >= 0, "at least 0")
        yield from unless_count("data.num_classes", self.num_classes)
        yield from _broken_class_names(self.class_names, self.num_classes)
        shade = self.background
        levels = (shade,) if isinstance(shade, int) else shade
        within = all(0 <= level <= 255 for level in levels)
        yield from unless("data.background", shade, within, "in 0..255")
        if self.source == "folder" and self.path is None:
            yield "data.path must name the image folder; got None"
        if self.source == "tfds" and not self.name:
            yield "data.name must name the TFDS data set; got ''"
        if self.source == "digits" and (self.image_size, channels) != (8, 1):
            yield (
                "the digits are 8 x 8 with 1 channel; got data.image_size="
                f"{self.image_size}, data.channels={channels}"
            )


def _broken_class_names(
    names: tuple[str, ...] | None, num_classes: int | None
) -> Iterator[str]:
    if names is None:
        return
    if num_classes is None:
        yield (
            "data.class_names name labels, and data.num_classes=None reads none; got "
            f"{len(names)} names"
        )
    elif len(names) != num_classes or len(set(names)) < len(names):
        yield (
            f"data.class_names must be {num_classes} different names, as many as "
            f"data.num_classes; got {' '.join(names) or 'none'}"
        )


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The betas; a field left at None is the kind's own default.

    Raises:
        ValueError: if a field is of another type, or cannot work; it lists them all.
    """

    # The shape of beta over the steps, which reads some of the fields below
    kind: Literal[
        "linear",
        "cosine",
        "quadratic",
        "constant",
        "warmup",
        "jsd",
        "sigmoid",
        "explicit",
    ] = "linear"
    num_steps: int = 1000  # T
    start: float | None = None  # first beta
    end: float | None = None  # last beta
    fraction: float | None = None  # warmup: the part of the steps over which beta grows
    offset: float | None = None  # cosine: s of Improved DDPM, eq. 17
    max_beta: float | None = None  # cosine: the largest beta
    betas: tuple[float, ...] | None = None  # explicit: of steps 0..T-1
    zero_terminal_snr: bool = False  # shift the betas so that x_T is pure noise

    def __post_init__(self):
        check_types("schedule", self)
        refuse(self._broken_rules())

    def _broken_rules(self) -> Iterator[str]:
        most = 1_000_000  # 14 tables of that length, and one row a step in training
        within = 2 <= self.num_steps <= most
        yield from unless("schedule.num_steps", self.num_steps, within, f"in 2..{most}")
        read = SCHEDULE_FIELDS[self.kind]
        for name in ("start", "end", "fraction", "offset", "max_beta"):
            value = getattr(self, name)
            if value is None:
                continue
            if name not in read:
                yield (
                    f"schedule.{name} is not read by the {self.kind} schedule, which "
                    f"takes {', '.join(read) or 'nothing'}; got {value}"
                )
            yield from unless(f"schedule.{name}", value, 0 < value < 1, "in (0, 1)")
        yield from self._broken_betas()

    def _broken_betas(self) -> Iterator[str]:
        explicit = self.kind == "explicit"
        if self.betas is None:
            if explicit:
                yield "schedule.kind=explicit needs schedule.betas; got None"
            return
        found = _SHORT.repr(self.betas)
        if not explicit:
            yield (
                f"schedule.betas is not read by the {self.kind} schedule, but by "
                f"schedule.kind=explicit; got {found}"
            )
        elif len(self.betas) != self.num_steps:
            yield (
                f"schedule.betas must be schedule.num_steps = {self.num_steps} "
                f"numbers; got {len(self.betas)}"
            )
        elif not (all(0 < x < 1 for x in self.betas[:-1]) and 0 < self.betas[-1] <= 1):
            yield (
                f"schedule.betas must be in (0, 1), or 1 at the last step; got {found}"
            )

    @property
    def ends_in_noise(self) -> bool:
        """Whether x_T holds nothing of x_0: the terminal SNR is 0."""
        last = self.betas is not None and self.betas[-1] == 1
        return self.zero_terminal_snr or self.kind == "jsd" or last


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """The limit on each predicted x0 while sampling.

    Raises:
        ValueError: if a field is of another type, or cannot work; it lists them all.
    """

    kind: Literal["none", "static", "dynamic"] = "static"  # dynamic: Imagen's
    bound: float = 1.0  # static: x0 is clipped to [-bound, bound]
    percentile: float = 0.995  # dynamic: which quantile of an example's |x0|, in (0, 1]
    max_value: float | None = None  # dynamic: the largest quantile; None = no limit

    def __post_init__(self):
        check_types("diffusion.clip", self)
        refuse(self._broken_rules())

    def _broken_rules(self) -> Iterator[str]:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            read = ("kind", *CLIP_FIELDS[self.kind])
            if item.name not in read and value != item.default:
                yield (
                    f"diffusion.clip.{item.name} is not read by "
                    f"diffusion.clip.kind={self.kind}; got {value}"
                )
        bound, percentile, largest = self.bound, self.percentile, self.max_value
        finite = 0 < bound < math.inf
        yield from unless("diffusion.clip.bound", bound, finite, "positive and finite")
        within = 0 < percentile <= 1
        yield from unless("diffusion.clip.percentile", percentile, within, "in (0, 1]")
        if largest is not None:
            name, within = "diffusion.clip.max_value", 1 <= largest < math.inf
            yield from unless(name, largest, within, "finite, at least 1")


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """What the network predicts and what it is trained on.

    Raises:
        ValueError: if a field is of another type, or cannot work; it lists them all.
    """

    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    predict: Literal["eps", "x0", "v"] = "eps"  # what the network's output is
    # Of the reverse step: beta_t (large), the posterior's (small), or the network's
    variance: Literal["fixed_small", "fixed_large", "learned", "learned_range"] = (
        "fixed_large"
    )
    # The error of the output; that and 0.001 of the bound; the bound alone
    loss: Literal["simple", "hybrid", "vlb"] = "simple"
    weight: Literal["constant", "min_snr", "p2"] = "constant"  # of the simple part
    steps: Literal["uniform", "loss_second_moment"] = "uniform"  # which t to train on
    label_dropout: float = 0.0  # probability that training hides a label
    clip: ClipConfig = field(default_factory=ClipConfig)
    rederive: bool = True  # ddim: eps again from the clipped x0; diffusers does not

    def __post_init__(self):
        if isinstance(self.clip, bool):  # as configs had it: to [-1, 1], or not at all
            kind: Any = "static" if self.clip else "none"
            object.__setattr__(self, "clip", ClipConfig(kind=kind))
        check_types("diffusion", self)
        refuse(self._broken_rules())

    def _broken_rules(self) -> Iterator[str]:
        learned = self.variance.startswith("learned")
        if self.loss == "hybrid" and not learned:
            yield (
                "diffusion.loss=hybrid trains a learned variance; got "
                f"diffusion.variance={self.variance}"
            )
        if learned and self.loss == "simple":
            yield (
                "diffusion.loss=simple leaves a learned variance untrained: choose "
                f"hybrid or vlb; got diffusion.variance={self.variance}"
            )
        if self.loss == "vlb" and self.weight != "constant":
            yield (
                "diffusion.weight weighs the simple loss; with diffusion.loss=vlb it "
                f"must be constant; got {self.weight}"
            )
        if self.schedule.ends_in_noise and self.predict == "eps":
            yield (
                "with zero terminal SNR (schedule.zero_terminal_snr, or kind=jsd) the "
                "network must predict v or x0, because eps says nothing of x0 at the "
                "last step; got diffusion.predict=eps"
            )
        yield from unless_probability("diffusion.label_dropout", self.label_dropout)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Adam with linear warm-up, clipping and an average of the weights.

    Raises:
        ValueError: if a field is of another type, or cannot work; it lists them all.
    """

    learning_rate: float = 2e-4  # after the warm-up
    warmup_steps: int = 5000  # the first update has rate 0; 0 = no warm-up
    decay_steps: int | None = None  # cosine decay to 0 at this step; None = constant
    beta1: float = 0.9  # decay of Adam's mean of the gradient
    beta2: float = 0.999  # and of its square
    eps: float = 1e-8  # added to the root of that
    weight_decay: float = 0.0  # decoupled (AdamW)
    clip_norm: float | None = 1.0  # of the global gradient; None = no clipping
    ema_decay: float = 0.9999  # of the float32 average that every sample uses
    ema_warmup: bool = True  # its decay at update s is at most (1 + s) / (10 + s)

    def __post_init__(self):
        check_types("optim", self)
        refuse(self._broken_rules())

    def _broken_rules(self) -> Iterator[str]:
        for name in ("learning_rate", "eps"):
            yield from unless_positive(f"optim.{name}", getattr(self, name))
        for name in ("warmup_steps", "weight_decay"):
            value = getattr(self, name)
            yield from unless(f"optim.{name}", value, value >= 0, ">= 0")
        for name in ("beta1", "beta2", "ema_decay"):
            yield from unless_probability(f"optim.{name}", getattr(self, name))
        if self.clip_norm is not None:
            yield from unless_positive("optim.clip_norm", self.clip_norm)
        if self.decay_steps is not None and self.decay_steps <= self.warmup_steps:
            yield (
                "optim.decay_steps must come after the warm-up of "
                f"{self.warmup_steps} steps; got {self.decay_steps}"
            )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The run: how long, how wide, and what it leaves behind.

    Raises:
        ValueError: if a field is of another type, or cannot work; it lists them all.
    """

    num_steps: int = 800_000  # updates
    batch_size: int = 128  # images per update, over all devices
    accumulate: int = 1  # micro-batches per update
    runner: Literal["jit", "pmap"] = "jit"  # how devices work together
    fsdp: int = 1  # devices over which large parameters are split (jit only)
    seed: int = 0  # of the weights, the batches, the steps and the noise
    log_every: int = 100  # steps between lines of metrics.jsonl
    checkpoint_every: int = 5000  # steps between checkpoints
    keep_latest: int = 3  # checkpoints kept
    keep_every: int | None = None  # and one of every so many steps; None = no more
    # And so many of the best: by evaluation's distance, or else its held-out loss, or
    # else the training loss since the checkpoint before
    keep_best: int = 0
    on_nonfinite: Literal["stop", "skip"] = "stop"  # a loss that is not a number
    # Who else is told of metrics and grids; auto = TensorBoard where it is installed
    tracker: Literal["auto", "none", "tensorboard", "wandb", "mlflow"] = "auto"
    # FLOP/s that one device can do at most, e.g. 989e12, for share_of_peak in
    # metrics.jsonl; None = not written
    peak_flops: float | None = None

    def __post_init__(self):
        check_types("train", self)
        refuse(self._broken_rules())

    def _broken_rules(self) -> Iterator[str]:
        for name in (
            *("num_steps", "batch_size", "accumulate", "fsdp", "log_every"),
            *("checkpoint_every", "keep_latest", "keep_every"),
        ):
            yield from unless_count(f"train.{name}", getattr(self, name))
        if self.peak_flops is not None:
            yield from unless_positive("train.peak_flops", self.peak_flops)
        best = self.keep_best
        yield from unless("train.keep_best", best, best >= 0, "at least 0")
        if self.accumulate > 0 and self.batch_size % self.accumulate:
            yield (
                f"train.accumulate={self.accumulate} must divide train.batch_size; "
                f"got {self.batch_size}"
            )
        if self.runner == "pmap" and self.fsdp > 1:
            yield (
                f"train.runner=pmap copies the parameters to every device; got "
                f"train.fsdp={self.fsdp}, which needs train.runner=jit"
            )


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """The grids that a run draws from its averaged weights.

    Raises:
        ValueError: if a field is of another type, or cannot work; it lists them all.
    """

    sampler: SamplerName = "ddpm"  # with its own spacing of the steps
    steps: int | None = None  # those that suit the sampler; None = all T
    every: int = 5000  # training steps between grids
    num: int = 64  # images in a grid

    def __post_init__(self):
        check_types("sample", self)
        refuse(self._broken_rules())

    def _broken_rules(self) -> Iterator[str]:
        for name in ("steps", "every", "num"):
            yield from unless_count(f"sample.{name}", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What a run measures of its averaged weights while it trains.

    Raises:
        ValueError: if a field is of another type, or cannot work; it lists them all.
    """

    every: int | None = None  # steps between evaluations; None = none
    # Held-out loss: of the first so many images of data.test_split; 0 = none
    images: int = 512
    levels: int = 10  # at so many steps t, even over the chain; all of a shorter one
    # Frechet distance of so many samples to data.split in the features of the set's
    # classifier, or of Inception for 32 pixels and more in colours; 0 = none
    samples: int = 0
    # How these are drawn; None = as the grids, sample.sampler and sample.steps
    sampler: SamplerName | None = None
    steps: int | None = None  # None = as sample.steps

    def __post_init__(self):
        check_types("evaluation", self)
        refuse(self._broken_rules())

    def _broken_rules(self) -> Iterator[str]:
        images, samples = self.images, self.samples
        for name in ("every", "levels", "steps"):
            yield from unless_count(f"evaluation.{name}", getattr(self, name))
        yield from unless("evaluation.images", images, images >= 0, "at least 0")
        within = samples == 0 or samples >= 2
        rule = "0, or at least 2 for a covariance"
        yield from unless("evaluation.samples", samples, within, rule)
        yield from self._not_read()

    def _not_read(self) -> Iterator[str]:
        """What is set and has no effect."""
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if value == item.default:
                continue
            if self.every is None:
                needs = "evaluation.every"
            elif item.name in ("sampler", "steps") and not self.samples:
                needs = "evaluation.samples"
            else:
                continue
            yield f"evaluation.{item.name} is not read without {needs}; got {value}"
        if self.every is not None and not self.images and not self.samples:
            yield (
                "evaluation.every needs evaluation.images or evaluation.samples to be "
                "measured; got 0 and 0"
            )


@dataclass(frozen=True, kw_only=True)
class Config:
    """One experiment; without arguments, a small one on the bundled digits.

    Raises:
        ValueError: if sections do not fit together; it lists all that is wrong.

    Examples:
        >>> from ddpm_jax.config import Config, DiffusionConfig, TrainConfig
        >>> config = Config(
        ...     diffusion=DiffusionConfig(predict="v"), train=TrainConfig(num_steps=500)
        ... )
        >>> config.data.source, config.data.image_size, config.diffusion.variance
        ('digits', 8, 'fixed_large')
    """

    data: DataConfig = field(default_factory=DataConfig)
    network: NetworkConfig = field(default_factory=digits_network)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self):
        check_types("", self)
        refuse(self._broken_rules())

    def _broken_rules(self) -> Iterator[str]:
        """Of the sections together."""
        schedule, dropout = self.diffusion.schedule, self.diffusion.label_dropout
        if dropout and self.data.num_classes is None:
            yield (
                "diffusion.label_dropout needs labels to drop; got "
                f"{dropout} with data.num_classes=None"
            )
        null_label = self.network.null_label or self.network.own is not None
        if dropout and not null_label:
            yield (
                "diffusion.label_dropout needs a row for no label; got "
                f"{dropout} with network.null_label=False"
            )
        total = schedule.num_steps
        for name, drawn in (("sample", self.sample), ("evaluation", self.evaluation)):
            if schedule.ends_in_noise and drawn.sampler == "heun":
                yield (
                    f"{name}.sampler=heun cannot start from zero terminal SNR, where "
                    "its sigma is infinite; choose another for this schedule"
                )
            steps, within = drawn.steps, drawn.steps is None or drawn.steps <= total
            yield from unless(f"{name}.steps", steps, within, f"in 1..{total}")

    def misfits(self) -> Iterator[str]:
        """Yields a line for each reason why no U-Net can be made of it.

        They are no rules of a config, since a run may be given a network.
        """
        if self.network.own is None:
            size, steps = self.data.image_size, self.diffusion.schedule.num_steps
            yield from self.network.misfits(size, steps)


@dataclass(frozen=True, kw_only=True)
class UNetConfig(Config):
    """A config of which the U-Net is made, as a command line always has it."""

    def _broken_rules(self) -> Iterator[str]:
        yield from self.misfits()
        yield from super()._broken_rules()


def to_dict(config: Any) -> dict[str, Any]:
    """The config as nested dicts of JSON values.

    Args:
        config: any of this module's.

    Returns:
        What `from_dict` reads.
    """
    return dataclasses.asdict(config)


def from_dict(values: dict[str, Any], cls: type = Config, path: str = "") -> Any:
    """The config that `to_dict` made the values of; missing fields keep defaults.

    A field that is younger than the stored values is as they were trained (`BEFORE`).

    Args:
        values: nested dicts.
        cls: the class of the config.
        path: how its fields are named in an error, with a dot at the end.

    Returns:
        A config of that class.

    Raises:
        ValueError: if a field is unknown, or values break rules of their classes; it
            lists them all.

    Examples:
        >>> from ddpm_jax.config import Config, from_dict, to_dict
        >>> config = from_dict({"train": {"num_steps": 100}})
        >>> config.train.num_steps, config.train.batch_size
        (100, 128)
        >>> from_dict(to_dict(config)) == config
        True
    """
    if not isinstance(values, dict):
        section = path.removesuffix(".") or "a config"
        raise ValueError(f"{section} must be a section; got {values!r:.80}")
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ValueError(
            f"a config has no field {path}{unknown[0]}; it has {', '.join(hints)}"
        )
    before = {f"{path}{name}": name for name in hints}
    fields = {name: BEFORE[x] for x, name in before.items() if x in BEFORE}
    broken = []
    for name, value in values.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint) and isinstance(value, dict):
            try:
                value = from_dict(value, typing.cast(type, hint), f"{path}{name}.")
            except ValueError as error:
                broken.append(str(error))
        elif isinstance(value, list):
            value = tuple(value)
        fields[name] = value
    refuse(broken)
    return cls(**fields)


def differences(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """The fields in which two configs differ.

    Args:
        ours: a config.
        theirs: another of the same class.
        path: what stands before the names, with a dot at the end.

    Returns:
        Lines 'path: ours, not theirs'.

    Examples:
        >>> import dataclasses
        >>> from ddpm_jax.config import Config, ScheduleConfig, differences
        >>> differences(ScheduleConfig(), ScheduleConfig(kind="cosine"))
        ["kind: 'linear', not 'cosine'"]
    """
    found = []
    for item in dataclasses.fields(ours):
        a, b = getattr(ours, item.name), getattr(theirs, item.name)
        if dataclasses.is_dataclass(a):
            found += differences(a, b, f"{path}{item.name}.")
        elif a != b:
            found.append(f"{path}{item.name}: {_SHORT.repr(a)}, not {_SHORT.repr(b)}")
    return found
