"""A run, an archive or other people's files as a `Model`."""

import pathlib
import warnings
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from ddpm_jax import build
from ddpm_jax.config import Config, from_dict
from ddpm_jax.files import enclosing_run
from ddpm_jax.model import Model
from ddpm_jax.networks import Network
from ddpm_jax.training import checkpoints


def load(
    path: pathlib.Path | str,
    *,
    step: int | None = None,
    weights: Literal["ema", "raw"] = "ema",
    network: Network | None = None,
    agree: Callable[[int], int] = int,
) -> Model:
    """The model of a run's newest checkpoint (or of `step`), without its optimiser.

    Args:
        path: a run's workdir; or a folder or file of weights that
            `interop.read.read_model` knows: an archive, or diffusers'.
        step: which checkpoint of a run; None is the newest.
        weights: the average, or "raw" for a run's weights as the last update left them.
        network: that of a run which was given one, as `train` was.
        agree: of many processes, the step that this one has found -> the one that all
            read (`processes.agree`); a run that goes on adds steps between two looks,
            and deletes others, so that all look again after they have read.

    Returns:
        The model, its weights on the first device.

    Raises:
        FileNotFoundError: if the path holds no checkpoint, or not of that step.
        ValueError: if no checkpoint is as it was written, raw weights are asked of what
            is no run, or the network is not the run's.

    Examples:
        >>> import ddpm_jax
        >>> import jax
        >>> from ddpm_jax import build
        >>> from ddpm_jax.config import Config, NetworkConfig
        >>> from ddpm_jax.interop.save import save_archive
        >>> small = NetworkConfig(
        ...     channels=8,
        ...     multipliers=(1,),
        ...     num_blocks=1,
        ...     attention_resolutions=(),
        ...     num_groups=4,
        ... )
        >>> config = Config(network=small)  # of the bundled digits
        >>> network = build.make_network(config)
        >>> params = build.init_params(jax.random.key(0), network, config.data)
        >>> save_archive("untrained", config, params)  # a folder
        >>> model = ddpm_jax.load("untrained")
        >>> model.step, model.image_shape, model.schedule.num_steps
        (0, (8, 8, 1), 1000)
    """
    if weights not in ("ema", "raw"):
        raise ValueError(f"weights must be 'ema' or 'raw'; got {weights!r}")
    items = checkpoints.MODEL if weights == "ema" else checkpoints.RAW
    directory = pathlib.Path(path) / "checkpoints"
    if not directory.is_dir():
        if network is not None:
            raise ValueError(
                f"network= is of a run that was given one; {path} is no run (no "
                "checkpoints/)"
            )
        if weights == "raw":
            raise ValueError(
                f"{path} is no run (no checkpoints/), and has no raw weights"
            )
        return _read_weights(pathlib.Path(path), step)
    chosen = agree(_choose_step(directory, step, items))
    while True:
        failure = None
        try:
            model = _read_run(directory, chosen, weights, network)
        except checkpoints.CheckpointError as error:
            failure = error
        # A run that goes on may have deleted the step meanwhile: then look again.
        now = agree(chosen if failure is None else _choose_step(directory, step, items))
        if now != chosen:
            chosen = now
        elif failure is not None:
            raise failure
        else:
            return model


def _read_run(
    directory: pathlib.Path, step: int, weights: str, network: Network | None
) -> Model:
    """The model of one checkpoint of a run."""
    with checkpoints.open_checkpoints(directory, read_only=True) as manager:
        config = from_dict(checkpoints.restore_config(manager, step))
        network = _network(config, network)
        shapes = jax.eval_shape(
            lambda key: build.init_params(key, network, config.data), jax.random.key(0)
        )
        if config.network.own is not None:
            checkpoints.check_shapes(manager, step, shapes, config.network.own)
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        target = checkpoints.abstract(shapes, jax.tree.map(lambda _: device, shapes))
        restore = {"ema": checkpoints.restore_ema, "raw": checkpoints.restore_raw}
        params = restore[weights](manager, step, target)
    return Model(
        params=params,
        schedule=build.make_schedule(config.diffusion.schedule),
        config=config,
        network=network,
        step=step,
    )


def _network(config: Config, given: Network | None) -> Network:
    """The U-Net, or the network that the run was given."""
    if given is None or config.network.own is None:
        if given is not None:
            raise ValueError("the run's network is the U-Net: load it without network=")
        return build.make_network(config)
    build.check_network(given, config)
    if type(given).__qualname__ != config.network.own:
        raise ValueError(
            f"the run's network is {config.network.own}; got {type(given).__qualname__}"
        )
    return given


def _read_weights(path: pathlib.Path, step: int | None) -> Model:
    """The model in other people's files, or in an archive."""
    from ddpm_jax.interop.read import read_model  # seldom needed, and slow to import

    if step is not None:
        raise FileNotFoundError(f"{path} is not the workdir of a run: no checkpoints/")
    try:
        weights = read_model(path)
    except FileNotFoundError as error:
        run = enclosing_run(path)
        raise FileNotFoundError(
            f"{path} is not the workdir of a run (no checkpoints/), and {error}"
            + (f"; it lies in the run {run}" if run else "")
        ) from error
    return Model(
        params=jax.tree.map(jnp.asarray, weights.params),
        schedule=build.make_schedule(weights.config.diffusion.schedule),
        config=weights.config,
        network=build.make_network(weights.config),
        step=weights.step,
    )


def _choose_step(
    directory: pathlib.Path, step: int | None, items: tuple[str, ...]
) -> int:
    """The step asked for, or the newest good one, saying what ails those newer."""
    if step is not None:
        if step not in checkpoints.complete_steps(directory):
            raise FileNotFoundError(f"{directory} holds no checkpoint of step {step}")
        checkpoints.check(directory, step, items)
        return step
    chosen, ailing = checkpoints.find_good(directory, items)
    if chosen is None:
        raise FileNotFoundError(f"{directory} holds no complete checkpoint")
    for bad, reason in ailing.items():
        warnings.warn(
            f"checkpoint {directory / str(bad)} is damaged ({reason}); step {chosen} "
            "is read in its place",
            stacklevel=3,
        )
    return chosen
