"""From a config to the things it names: the one place where names become functions."""

import dataclasses
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax import data  # its names are imported when they are used
from ddpm_jax.checks import refuse
from ddpm_jax.config import (
    SCHEDULE_FIELDS,
    ClipConfig,
    Config,
    DataConfig,
    DiffusionConfig,
    ScheduleConfig,
)
from ddpm_jax.diffusion import (
    guidance,
    importance,
    losses,
    samplers,
    schedules,
    solver_spacing,
    transitions,
)
from ddpm_jax.diffusion.betas import ENDS, rescaled_ends
from ddpm_jax.diffusion.closures import Closure
from ddpm_jax.diffusion.denoiser import Clip, Denoiser, denoiser
from ddpm_jax.diffusion.noise import Key, fold_in, threefry_key
from ddpm_jax.diffusion.samplers import Sampler
from ddpm_jax.diffusion.schedules import Schedule, concrete
from ddpm_jax.networks import Network, UNet
from ddpm_jax.networks.convolutions import DIRECT, WINOGRAD, Convolutions
from ddpm_jax.networks.initial import initial_params
from ddpm_jax.networks.presets import IMPROVED_INIT

BETAS: dict[str, Callable] = {
    "linear": schedules.linear_betas,
    "cosine": schedules.cosine_betas,
    "quadratic": schedules.quadratic_betas,
    "constant": schedules.constant_betas,
    "warmup": schedules.warmup_betas,
    "jsd": schedules.jsd_betas,
    "sigmoid": schedules.sigmoid_betas,
    "explicit": lambda num_steps, *, betas: np.array(betas, np.float64),
}
"""`schedule.kind` -> the betas."""

PREDICT = {
    "eps": transitions.from_eps,
    "x0": transitions.from_x0,
    "v": transitions.from_v,
}
"""`diffusion.predict` -> what an output stands for."""

VARIANCE = {
    "fixed_small": transitions.fixed_small,
    "fixed_large": transitions.fixed_large,
    "learned": transitions.learned,
    "learned_range": transitions.learned_range,
}
"""`diffusion.variance` -> the rule."""

INITIALIZERS: dict[str, dict] = {"ddpm": {}, "improved": IMPROVED_INIT}
"""`network.init` -> fields of `UNet`."""

WEIGHTS: dict = {"min_snr": losses.min_snr, "p2": losses.p2}
"""`diffusion.weight` -> the factor of the loss."""

SAMPLERS: dict[str, Callable[[], Sampler]] = {
    "ddpm": samplers.ddpm,
    "ddim": samplers.ddim,
    "dpm_solver_pp": samplers.dpm_solver_pp,
    "unipc": samplers.unipc,
    "heun": samplers.heun,
}
"""The names of samplers, in configs and on command lines."""

SPACINGS = ("uniform", "ddim", "quadratic", "leading", "trailing", "linspace")
"""The names that `schedules.spaced_timesteps` knows."""

SOLVER_SPACINGS: dict[str, Callable] = {
    "logsnr": solver_spacing.log_snr_positions,
    "karras": solver_spacing.karras_positions,
    "heun": solver_spacing.heun_positions,
}
"""The names of positions that suit a solver, also between two steps."""


def make_betas(config: ScheduleConfig) -> np.ndarray:
    """The betas that the config names.

    Args:
        config: the schedule's section.

    Returns:
        The betas, float64, shape (T,).

    Raises:
        ValueError: if they are no chain, as `diffusion.schedules` says.
    """
    # With its default ends given no function warns: `warn_of_signal` does, in training.
    found = {x: getattr(config, x) for x in SCHEDULE_FIELDS[config.kind]}
    found = {x: ENDS.get(x) if value is None else value for x, value in found.items()}
    given = {name: value for name, value in found.items() if value is not None}
    if config.kind == "constant":
        given = {"value": given["end"]}
    betas = BETAS[config.kind](config.num_steps, **given)
    return schedules.zero_terminal_snr(betas) if config.zero_terminal_snr else betas


def make_schedule(
    config: ScheduleConfig,
    *,
    steps: int | None = None,
    spacing: str | None = None,
    lambda_min: float | None = None,
    sampler: Sampler | None = None,
) -> Schedule:
    """The schedule that the config names, respaced to `steps` steps; None keeps all.

    Args:
        config: the schedule's section.
        steps: how many of its steps to visit; None visits all.
        spacing: a name of `schedules.spaced_timesteps`, or "logsnr", "karras" or "heun"
            for positions that suit a solver (`diffusion.solver_spacing`); None is the
            sampler's own.
        lambda_min: of those three: where, in log(alpha / sigma), the chain is cut; -inf
            is no cut, None the spacing's own.
        sampler: what is to walk the schedule; None is one that suits "uniform".

    Returns:
        The schedule, of tables of shape (T,), or (steps,).

    Raises:
        ValueError: if there is no such spacing, it has no so many steps, or steps are
            not given and spacing or lambda_min are.

    Examples:
        >>> from ddpm_jax import build
        >>> from ddpm_jax.config import ScheduleConfig
        >>> config = ScheduleConfig(kind="cosine")
        >>> build.make_schedule(config).num_steps
        1000
        >>> short = build.make_schedule(config, steps=4, spacing="trailing")
        >>> short.timesteps.tolist()
        [249, 499, 749, 999]
    """
    return _respaced(make_betas(config), steps, spacing, lambda_min, sampler)


def respaced(
    schedule: Schedule,
    config: ScheduleConfig,
    *,
    steps: int,
    spacing: str | None = None,
    lambda_min: float | None = None,
    sampler: Sampler | None = None,
) -> Schedule:
    """A model's schedule respaced, with the arguments of `make_schedule`.

    That of its config is respaced from the config's betas, in float64; another one from
    its own tables, its steps being told to the network as before. Under jit, where one
    cannot be told from the other, it is the config's.

    Args:
        schedule: the model's.
        config: the schedule's section of its config.
        steps: as for `make_schedule`.
        spacing: as for `make_schedule`.
        lambda_min: as for `make_schedule`.
        sampler: as for `make_schedule`.

    Returns:
        The schedule, of tables of shape (steps,).

    Raises:
        ValueError: as `make_schedule`.
    """
    how = (steps, spacing, lambda_min, sampler)
    betas, told = concrete(schedule.betas), concrete(schedule.timesteps)
    if betas is None or told is None:
        return _respaced(make_betas(config), *how)
    usual = make_schedule(config)
    if np.array_equal(betas, usual.betas) and np.array_equal(told, usual.timesteps):
        return _respaced(make_betas(config), *how)
    chain = _respaced(betas.astype(np.float64), *how)
    kept = np.interp(chain.timesteps, np.arange(len(told)), told)
    dtype = jnp.result_type(told, chain.timesteps)
    return dataclasses.replace(chain, timesteps=jnp.asarray(kept, dtype))


def _respaced(
    betas: np.ndarray,
    steps: int | None,
    spacing: str | None,
    lambda_min: float | None,
    sampler: Sampler | None,
) -> Schedule:
    """The chain of these betas, float64, as `make_schedule` respaces it."""
    check_spacing(steps, spacing, lambda_min)
    spacing = suitable_spacing(sampler, betas) if spacing is None else spacing
    if lambda_min is not None and spacing not in SOLVER_SPACINGS:
        raise ValueError(
            f"lambda_min belongs to the spacings {', '.join(SOLVER_SPACINGS)}; got "
            f"{lambda_min} with {spacing!r}"
        )
    total = len(betas)
    if steps is None or (steps == total and spacing in SPACINGS):
        return schedules.make_schedule(betas)
    if not 1 <= steps <= total:
        raise ValueError(
            f"the number of sampling steps must lie in 1..{total}; got {steps}"
        )
    if spacing in SOLVER_SPACINGS:
        cut = {} if lambda_min is None else {"lambda_min": lambda_min}
        positions = SOLVER_SPACINGS[spacing](betas, steps, **cut)
        return solver_spacing.interpolated_schedule(betas, positions)
    kept = schedules.spaced_timesteps(total, steps, spacing=spacing)
    if kept[-1] == 0:
        raise ValueError(
            f"with spacing {spacing!r} a single step is the first of the chain, where "
            "there is hardly any noise; use 'trailing', or more steps"
        )
    return schedules.make_schedule(betas, timesteps=kept)


def suitable_spacing(sampler: Sampler | None, betas: np.ndarray) -> str:
    """The name of the spacing that suits a sampler on a chain.

    Args:
        sampler: what is to walk the chain; None is one that suits "uniform".
        betas: of the chain, shape (T,).

    Returns:
        A name that `make_schedule` knows.
    """
    suitable = "uniform" if sampler is None else sampler.spacing
    if betas[-1] == 1 and suitable in SOLVER_SPACINGS:
        return "uniform"  # log-SNR has no end there; also so they are ahead of DDIM
    return suitable


def check_spacing(
    steps: int | None, spacing: str | None, lambda_min: float | None
) -> None:
    """Refuses an unknown spacing, and what is not read without steps.

    Args:
        steps: as for `make_schedule`.
        spacing: as for `make_schedule`.
        lambda_min: as for `make_schedule`.

    Raises:
        ValueError: if the name is unknown, or steps are missing.
    """
    known = (*SPACINGS, *SOLVER_SPACINGS)
    if spacing is not None and spacing not in known:
        raise ValueError(f"spacing must be one of {', '.join(known)}; got {spacing!r}")
    if steps is not None:
        return
    for name, value in (("spacing", spacing), ("lambda_min", lambda_min)):
        if value not in (None, "uniform"):
            raise ValueError(f"{name}={value} spaces so many steps; got none")


def signal_left(config: ScheduleConfig) -> float:
    """The part of x_0 that x_T holds, sqrt(alpha_bar_T); sampling starts without.

    Args:
        config: the schedule's section.

    Returns:
        In [0, 1).
    """
    return float(np.sqrt(np.prod(1 - make_betas(config))))


def warn_of_signal(config: ScheduleConfig) -> None:
    """Warns of a chain that leaves more than a tenth of x_0 at its end, with advice.

    Args:
        config: the schedule's section.
    """
    left, steps = signal_left(config), config.num_steps
    if left <= 0.1:
        return
    advice = "schedule.kind=cosine leaves nothing of it at any num_steps"
    read = SCHEDULE_FIELDS[config.kind]
    ends = {name: x for name, x in rescaled_ends(steps).items() if name in read}
    if ends and ends["end"] < 1:
        said = ", ".join(f"schedule.{name}={x:.4g}" for name, x in ends.items())
        advice = f"the usual ends for 1000 steps, times 1000 / T, are {said}; {advice}"
    warnings.warn(
        f"x_T still holds {left:.0%} of x_0 with schedule.kind={config.kind} and "
        f"num_steps={steps}, but sampling starts from noise alone: {advice}",
        stacklevel=2,
    )


def make_network(config: Config) -> UNet:
    """The U-Net, with twice the image's channels where the variance is learned.

    Args:
        config: of the run.

    Returns:
        The network, without parameters.

    Raises:
        ValueError: if the config is of a network that Python gives, or the U-Net cannot
            take its sizes.

    Examples:
        >>> from ddpm_jax import build
        >>> from ddpm_jax.config import Config, DiffusionConfig
        >>> build.make_network(Config()).out_channels  # of grey digits
        1
        >>> learned = DiffusionConfig(variance="learned_range", loss="hybrid")
        >>> build.make_network(Config(diffusion=learned)).out_channels
        2
    """
    if config.network.own is not None:
        raise ValueError(
            f"the network is {config.network.own}, not the U-Net, and must be given: "
            "ddpm_jax.train(config, workdir, network=...), ddpm_jax.load(workdir, "
            "network=...)"
        )
    refuse(config.misfits())
    fields = dataclasses.asdict(config.network)
    del fields["own"]
    convolutions = fields.pop("convolutions")
    fields["dtype"] = jnp.dtype(fields.pop("dtype"))
    fields |= INITIALIZERS[fields.pop("init")]
    return UNet(
        out_channels=out_channels(config),
        num_classes=config.data.num_classes,
        convolutions=_fastest() if convolutions == "fastest" else DIRECT,
        **fields,
    )


def _fastest() -> Convolutions:
    """The faster convolutions here.

    On many devices Winograd's gradients, taken apart as they are, would be summed
    between the devices in sixteen parts.
    """
    alone = jax.default_backend() == "cpu" and jax.device_count() == 1
    return WINOGRAD if alone else DIRECT


def out_channels(config: Config) -> int:
    """Of the network: the images', or twice as many for a learned variance.

    Args:
        config: of the run.
    """
    halves = 2 if config.diffusion.variance.startswith("learned") else 1
    return halves * config.data.channels


def check_network(network: Network, config: Config) -> None:
    """Refuses a network that Python gives and that does not suit the config.

    Args:
        network: what is to be a `networks.Network`.
        config: of the run.

    Raises:
        ValueError: if it lacks something, is not hashable, or has other channels.
    """
    if isinstance(network, type):
        raise ValueError(
            f"a network must be a module, not its class: call {network.__name__}"
        )
    for name in ("init", "apply", "out_channels", "null_label"):
        if not hasattr(network, name):
            raise ValueError(
                f"a network must have {name} (see ddpm_jax.networks.Network); "
                f"{type(network).__name__} has not"
            )
    try:
        hash(network)
    except TypeError as error:
        raise ValueError(
            "a network must be hashable, as Linen modules and frozen dataclasses are; "
            f"{type(network).__name__} is not"
        ) from error
    wanted = out_channels(config)
    if network.out_channels != wanted:
        raise ValueError(
            f"the network must have out_channels={wanted} for {config.data.channels} "
            f"channels and variance={config.diffusion.variance}; "
            f"got {network.out_channels}"
        )
    if config.diffusion.label_dropout and not network.null_label:
        raise ValueError(
            "diffusion.label_dropout needs a network that takes the label "
            f"{config.data.num_classes} as none; got null_label=False"
        )


def init_params(key: jax.Array, network: Network, config: DataConfig) -> Any:
    """The network's initial parameters. Consumes `key`.

    Args:
        key: of their random numbers, ().
        network: the U-Net or another.
        config: of the images, (image_size, image_size, channels).

    Returns:
        A pytree, float32.
    """
    x = jnp.zeros((1, config.image_size, config.image_size, config.channels))
    label = None if config.num_classes is None else jnp.zeros((1,), jnp.int32)
    inputs = (x, jnp.zeros((1,), jnp.int32), label)
    if isinstance(network, UNet):
        return initial_params(network, threefry_key(key), *inputs)
    return network.init(threefry_key(key), *inputs)["params"]


def make_loss(config: DiffusionConfig) -> losses.Loss:
    """The loss to minimise (Ho et al. 2020; Nichol & Dhariwal 2021).

    Args:
        config: which loss, parametrisation, variance and weight.

    Returns:
        (schedule, x0, xt, t, noise, output) -> the loss of each example, (batch,); see
        `diffusion.losses`.
    """
    predict, variance = PREDICT[config.predict], VARIANCE[config.variance]
    weight = None
    if config.weight != "constant":
        weight = WEIGHTS[config.weight](predict=predict)

    def vlb(schedule, x0, xt, t, noise, output):
        # T times one term: an estimate of the whole bound in bits per dimension.
        return schedule.num_steps * losses.vlb_term(
            schedule, x0, xt, t, noise, output, predict=predict, variance=variance
        )

    simple = partial(losses.simple_loss, predict=predict, weight=weight)
    hybrid = partial(
        losses.hybrid_loss, predict=predict, variance=variance, weight=weight
    )
    table: dict[str, losses.Loss] = {"simple": simple, "vlb": vlb, "hybrid": hybrid}
    return table[config.loss]


def make_step_sampler(config: DiffusionConfig) -> importance.StepSampler:
    """How training chooses the step of each example.

    Args:
        config: which way, and how many steps.

    Returns:
        One of `diffusion.importance`.
    """
    chosen = {
        "uniform": importance.uniform_steps,
        "loss_second_moment": importance.loss_second_moment,
    }[config.steps]
    return chosen(config.schedule.num_steps)


def make_clip(config: ClipConfig) -> Clip | None:
    """The limit on x0 that the config names; None is no limit.

    Args:
        config: the section of it.

    Returns:
        A function of x_0, (batch, *data), or None.
    """
    if config.kind == "none":
        return None
    if config.kind == "static":
        return guidance.clip_static(config.bound)
    return guidance.clip_dynamic(config.percentile, config.max_value)


def make_sampler(name: str, *, eta: float = 0.0) -> Sampler:
    """The sampler of that name.

    Args:
        name: "ddpm", "ddim", "dpm_solver_pp", "unipc" or "heun".
        eta: of "ddim", in [0, 1].

    Returns:
        The sampler, with its defaults.

    Raises:
        ValueError: if there is no such sampler, or it does not take an eta.

    Examples:
        >>> from ddpm_jax import build
        >>> build.make_sampler("dpm_solver_pp").spacing
        'logsnr'
    """
    if name not in SAMPLERS:
        raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}; got {name!r}")
    if eta and name != "ddim":
        raise ValueError(f"eta belongs to the sampler ddim; got {eta} with {name}")
    return samplers.ddim(eta=eta) if name == "ddim" else SAMPLERS[name]()


def make_denoiser(
    config: DiffusionConfig,
    network: Callable[..., jax.Array],
    *,
    clip: bool = True,
    rederive: bool | None = None,
) -> Denoiser:
    """A network read as the config says.

    Args:
        config: parametrisation, variance, clip.
        network: (x, t) -> output, x being (batch, *data), t (batch,).
        clip: False leaves out the config's limit on x0.
        rederive: whether eps follows a limited x0; None is the config's.

    Returns:
        What samplers ask (`diffusion.denoiser.denoiser`).
    """
    return denoiser(
        network,
        predict=PREDICT[config.predict],
        variance=VARIANCE[config.variance],
        clip=make_clip(config.clip) if clip else None,
        rederive=config.rederive if rederive is None else rederive,
    )


def bound_network(
    network: Network, params: Any, label: jax.Array | None = None
) -> Closure:
    """The network as (x, t) -> output, its parameters and labels bound; a pytree.

    Args:
        network: the U-Net or another.
        params: its parameters.
        label: one for all images, (), or one each, (batch,), int32; None is none.

    Returns:
        A function of x (batch, h, w, c) and t (batch,).
    """
    return Closure(_labelled, network=conditional(network, params), label=label)


def conditional(network: Network, params: Any) -> Closure:
    """The network as (x, t, label) -> output, its parameters bound; a pytree.

    Args:
        network: the U-Net or another.
        params: its parameters.

    Returns:
        A function of x (batch, h, w, c), t (batch,) and labels (batch,) or None.
    """
    return Closure(_apply, network=network, params=params)


def image_keys(key: Key, first: int, count: int) -> jax.Array:
    """The keys of images first..first + count - 1: what makes image i itself.

    Args:
        key: one key, (), or a seed.
        first: the number of the first image.
        count: how many.

    Returns:
        Keys, (count,).

    Raises:
        ValueError: if there is more than one key, or the count is no whole number.
    """
    key = threefry_key(key)
    if key.ndim:
        raise ValueError(
            "there must be one key, of which every image gets its own; got keys of "
            f"shape {key.shape}"
        )
    if not isinstance(count, int | np.integer) or count < 0:
        raise ValueError(f"the number of images must be a whole number; got {count!r}")
    return jax.vmap(lambda i: fold_in(key, i))(jnp.arange(first, first + count))


def read_images(
    config: DataConfig, split: str
) -> "data.ImageArrays | data.ImageSource":
    """A split, in memory or to stream from, as the config says.

    Args:
        config: the data section.
        split: as the source names it.

    Returns:
        `ImageArrays`, or a source.

    Raises:
        ValueError: as `load_images` and `open_images`.
        OSError: as the source.
    """
    read = load_images if config.resident else open_images
    return read(config, split)


def load_images(config: DataConfig, split: str) -> "data.ImageArrays":
    """A split as arrays in memory, its labels in the order of `config.class_names`.

    Where a folder's class names are unknown, labels count them sorted as text, as in
    runs that did not keep their names.

    Args:
        config: the data section.
        split: as the source names it.

    Returns:
        The images, (n, h, w, c) uint8, and labels.

    Raises:
        ValueError: what the source raises; it names the thing.
        OSError: what the source raises.
        ImportError: if a library that reads the source is not installed.
    """
    _check_readable(config)
    if config.source == "digits":
        return _in_label_order(config, data.load_digits(split))
    if config.source == "folder":
        policy = _image_policy(config)
        arrays = data.load_folder(str(config.path), channels=config.channels, **policy)
    else:
        arrays = data.load_tfds(
            config.name, split=split, data_dir=config.path, **_image_policy(config)
        )
    return _in_label_order(config, arrays)


def open_images(config: DataConfig, split: str) -> "data.ImageSource":
    """A split as a random-access source, to stream from; otherwise as `load_images`.

    Args:
        config: the data section.
        split: as the source names it.

    Returns:
        The source.

    Raises:
        ValueError: as `load_images`, and for the digits, which are not streamed.
    """
    _check_readable(config)
    if config.source == "digits":
        raise ValueError(
            "the digits are held on the devices; got data.resident=False with "
            "data.source=digits"
        )
    source: data.ImageSource
    if config.source == "folder":
        policy = _image_policy(config)
        source = data.FolderSource(str(config.path), channels=config.channels, **policy)
    else:
        source = data.open_tfds(
            config.name, split=split, data_dir=config.path, **_image_policy(config)
        )
    return _in_label_order(config, source)


def _image_policy(config: DataConfig) -> dict[str, Any]:
    names = ("image_size", "resize", "background")
    return {name: getattr(config, name) for name in names}


def _in_label_order(config: DataConfig, source: Any) -> Any:
    if config.num_classes is None:  # labels are not read
        return source
    names = config.class_names
    if names is None and config.source == "folder":
        names = tuple(sorted(source.label_names))
    return source if names is None else data.relabelled(source, names)


def _check_readable(config: DataConfig) -> None:
    if config.source == "given":
        raise ValueError(
            "data.source=given is images that Python gives, as in ddpm_jax.train("
            "config, workdir, data=images); got none"
        )
    if config.source == "folder" and not config.path:
        raise ValueError(
            "data.path must name the image folder; got '', as in imported weights, "
            "which do not say where images lie"
        )


def _apply(x, t, label=None, *, network: Network, params: Any):
    return network.apply({"params": params}, x, t, label)


def _labelled(x, t, *, network: Closure, label: jax.Array | None):
    if label is not None:
        label = jnp.broadcast_to(label, x.shape[:1])
    return network(x, t, label)
