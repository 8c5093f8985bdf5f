"""A trained model as a value: load a run, then draw from it."""

import dataclasses
import pathlib
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from tqdm import tqdm

from ddpm_jax import build
from ddpm_jax.config import Config, from_dict
from ddpm_jax.data.labels import label_numbers, listed
from ddpm_jax.diffusion import samplers
from ddpm_jax.diffusion.guidance import classifier_free
from ddpm_jax.diffusion.samplers import Sampler
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.files import enclosing_run
from ddpm_jax.networks import UNet
from ddpm_jax.training import checkpoints
from ddpm_jax.training.parallel import BATCH_AXES, make_mesh

Label = int | str | Sequence[int | str] | np.ndarray | jax.Array | None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A network with its weights, its schedule and its config; a pytree."""

    params: Any
    schedule: Schedule
    config: Config = dataclasses.field(metadata={"static": True})
    network: UNet = dataclasses.field(metadata={"static": True})
    step: int = dataclasses.field(metadata={"static": True})  # updates it was trained

    def denoise(
        self, x: jax.Array, t: jax.Array, label: jax.Array | None = None
    ) -> jax.Array:
        """The network's output for (x_t, t); labels as `networks.UNet` takes them."""
        return build.conditional(self.network, self.params)(x, t, label)

    def sample(
        self,
        key: jax.Array,
        num: int,
        *,
        sampler: Sampler | None = None,
        steps: int | None = None,
        spacing: str | None = None,
        lambda_min: float | None = None,
        label: Label = None,
        guidance: float | jax.Array | None = None,
        progress: bool | None = None,
    ) -> jax.Array:
        """`num` images (num, h, w, c) in [-1, 1]. Consumes `key`.

        Image i depends on the key and on i, not on how many are drawn with it. The
        first call for a sampler, a number of steps and a batch shape compiles; other
        seeds, labels and scales run the same program.

        Args:
            sampler: from `diffusion.samplers`; None is `ddpm` as the model was trained.
            steps: how many of the schedule's steps to visit; None visits all.
            spacing: which ones, as `build.make_schedule` names it; None is the
                sampler's own.
            lambda_min: where that function cuts the chain.
            label: of every image, or (num,) one each; None draws without labels. A
                number, or the name of a class where the run keeps names.
            guidance: scale of classifier-free guidance; None (or 1) is the conditional
                model, larger follows the label more closely.
            progress: show a bar; None shows one after the first second, where somebody
                looks (a terminal, a notebook). There is none under jit.

        Raises:
            ValueError: if the model has no labels and one is given, a label is out of
                range or names no class, guidance is not finite, steps is larger than
                the schedule has, or a spacing is given without steps.
        """
        arguments = self._arguments(
            sampler, steps, spacing, lambda_min, num, label, guidance
        )
        denoise, schedule, shape, sampler = arguments
        keys = self._divide(build.image_keys(key, 0, num))
        if progress is None:
            progress = sys.stderr.isatty() or "ipykernel" in sys.modules
        if not progress or _is_traced((keys, denoise, schedule)):
            return samplers.sample(keys, denoise, schedule, shape, sampler=sampler)
        every = max(1, schedule.num_steps // 50)
        with tqdm(total=schedule.num_steps, unit="step", delay=1, leave=False) as bar:
            for i, x in samplers.sample_iter(
                keys, denoise, schedule, shape, sampler=sampler, every=every
            ):
                x.block_until_ready()
                bar.update(schedule.num_steps - i - bar.n)
        return x

    def sample_iter(
        self,
        key: jax.Array,
        num: int,
        *,
        first: int = 0,
        every: int = 1,
        sampler: Sampler | None = None,
        steps: int | None = None,
        spacing: str | None = None,
        lambda_min: float | None = None,
        label: Label = None,
        guidance: float | jax.Array | None = None,
    ) -> Iterator[tuple[int, jax.Array]]:
        """Yields (index, x) every so many steps of what `sample` does; (0, x_0) last.

        Args:
            first: the images are first..first + num - 1 of this key.
            every: steps between what is yielded.
        """
        arguments = self._arguments(
            sampler, steps, spacing, lambda_min, num, label, guidance
        )
        keys = self._divide(build.image_keys(key, first, num))
        return samplers.sample_iter(
            keys, *arguments[:-1], sampler=arguments[-1], every=every
        )

    def over_local_devices(self) -> "Model":
        """The model with its weights on every device of this process.

        A draw of as many images as the devices divide is then divided among them.
        """
        devices = jax.local_devices()
        if len(devices) == 1:
            return self
        mesh = make_mesh(devices)
        whole = NamedSharding(mesh, PartitionSpec())
        return dataclasses.replace(self, params=jax.device_put(self.params, whole))

    def respaced(
        self,
        sampler: Sampler,
        steps: int | None,
        spacing: str | None,
        lambda_min: float | None,
    ) -> Schedule:
        """The chain that `sampler` walks; the options as `sample` takes them."""
        build.check_spacing(steps, spacing, lambda_min)
        if steps is None:
            return self.schedule
        return build.make_schedule(
            self.config.diffusion.schedule,
            steps=steps,
            spacing=spacing,
            lambda_min=lambda_min,
            sampler=sampler,
        )

    def _divide(self, keys: jax.Array) -> jax.Array:
        """The keys of a batch, over the devices that hold the weights."""
        place = getattr(jax.tree.leaves(self.params)[0], "sharding", None)
        if not isinstance(place, NamedSharding) or _is_traced(keys):
            return keys
        if len(keys) % place.mesh.size or set(BATCH_AXES) - set(place.mesh.axis_names):
            return keys
        divided = NamedSharding(place.mesh, PartitionSpec(BATCH_AXES))
        return jax.device_put(keys, divided)

    def _arguments(self, sampler, steps, spacing, lambda_min, num, label, guidance):
        """(denoise, schedule, shape, sampler) of a draw."""
        if sampler is None:
            sampler = build.make_sampler(self.config.diffusion, "ddpm")
        data = self.config.data
        shape = (num, data.image_size, data.image_size, data.channels)
        schedule = self.respaced(sampler, steps, spacing, lambda_min)
        return self._denoiser(num, label, guidance), schedule, shape, sampler

    def _denoiser(self, num: int, label, guidance) -> Callable:
        classes = self.config.data.num_classes
        if classes is not None:
            label = label_numbers(label, self.config.data.class_names)
        label = checked_label(label, classes, num)
        if label is None and classes is not None and not self.network.null_label:
            raise ValueError(
                f"the model is class-conditional: give a label 0..{classes - 1}"
            )
        if guidance is None:
            return build.denoiser(self.network, self.params, label)
        if label is None or classes is None:
            raise ValueError(
                "guidance strengthens a label: it needs a class-conditional model and "
                f"a label; got guidance={guidance} without a label"
            )
        if not self.config.diffusion.label_dropout:
            raise ValueError(
                "guidance needs a model that has learned to do without a label: one "
                "trained with diffusion.label_dropout > 0; got 0"
            )
        conditional = build.conditional(self.network, self.params)
        if not _is_traced(guidance):
            size = np.abs(np.asarray(guidance, np.float64))
            if not np.all(size <= np.finfo(np.float32).max):
                raise ValueError(f"guidance must be finite in float32; got {guidance}")
        scale = jnp.asarray(guidance, float)
        return classifier_free(conditional, label, classes, scale)

    def _facts(self) -> dict[str, str]:
        """What a person asks first."""
        count = sum(x.size for x in jax.tree.leaves(self.params))
        data, diffusion = self.config.data, self.config.diffusion
        labels = "none" if data.num_classes is None else f"{data.num_classes} classes"
        if data.class_names is not None:
            labels += f" ({listed(data.class_names)})"
        schedule = diffusion.schedule
        return {
            "images": f"{data.image_size}x{data.image_size}x{data.channels}",
            "labels": labels,
            "network": f"{count:,} parameters",
            "trained": f"{self.step:,} updates",
            "chain": f"{schedule.num_steps} {schedule.kind} steps",
            "predicts": f"{diffusion.predict}, variance {diffusion.variance}",
        }

    def __repr__(self) -> str:
        return f"Model({', '.join(f'{k}: {v}' for k, v in self._facts().items())})"

    def _repr_html_(self) -> str:
        """The same as a table, in a notebook."""
        rows = (f"<tr><th>{k}</th><td>{v}</td></tr>" for k, v in self._facts().items())
        return f"<table>{''.join(rows)}</table>"


def load(
    path: pathlib.Path | str,
    *,
    step: int | None = None,
    weights: Literal["ema", "raw"] = "ema",
    agree: Callable[[int], int] = int,
) -> Model:
    """The model of a run's newest checkpoint (or of `step`), without its optimiser.

    Args:
        path: a run's workdir; or a folder or file of weights that
            `interop.read.read_model` knows: an archive, or diffusers'.
        step: which checkpoint of a run.
        weights: the average, or "raw" for a run's weights as the last update left them.
        agree: of many processes, the step that this one has found -> the one that all
            read (`processes.agree`); a run that goes on adds steps between two looks,
            and deletes others, so that all look again after they have read.

    Raises:
        FileNotFoundError: if the path holds no checkpoint, or not of that step.
        ValueError: if no checkpoint is as it was written, or raw weights are asked of
            what is no run.
    """
    if weights not in ("ema", "raw"):
        raise ValueError(f"weights must be 'ema' or 'raw'; got {weights!r}")
    items = checkpoints.MODEL if weights == "ema" else checkpoints.RAW
    directory = pathlib.Path(path) / "checkpoints"
    if not directory.is_dir():
        if weights == "raw":
            raise ValueError(
                f"{path} is no run (no checkpoints/), and has no raw weights"
            )
        return _read_weights(pathlib.Path(path), step)
    chosen = agree(_choose_step(directory, step, items))
    while True:
        failure = None
        try:
            model = _read_run(directory, chosen, weights)
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


def _read_run(directory: pathlib.Path, step: int, weights: str) -> Model:
    """The model of one checkpoint of a run."""
    with checkpoints.open_checkpoints(directory, read_only=True) as manager:
        config = from_dict(checkpoints.restore_config(manager, step))
        network = build.make_network(config)
        shapes = jax.eval_shape(
            lambda key: build.init_params(key, network, config.data), jax.random.key(0)
        )
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


def _is_traced(tree: Any) -> bool:
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def checked_label(
    label: int | jax.Array | None, classes: int | None, num: int
) -> jax.Array | None:
    """The labels of `num` images, (num,) int32, or None.

    Raises:
        ValueError: if there are no classes, if labels are neither one nor `num` whole
            numbers, or if a concrete one is not a class.
    """
    if label is None:
        return None
    if classes is None:
        raise ValueError(f"the model has no labels to draw from; got label {label}")
    given: Any = label if isinstance(label, jax.Array) else np.asarray(label)
    if not jnp.issubdtype(given.dtype, jnp.integer):
        raise ValueError(f"a label must be a whole number; got {label}")
    if given.shape not in ((), (num,)):
        raise ValueError(
            f"there must be one label, or one for each of the {num} images; got "
            f"labels of shape {given.shape}"
        )
    if not isinstance(given, jax.core.Tracer):
        values = np.asarray(given)
        wrong = values[(values < 0) | (values >= classes)]
        if wrong.size:
            raise ValueError(f"a label must lie in 0..{classes - 1}; got {wrong[0]}")
    return jnp.broadcast_to(jnp.asarray(given, jnp.int32), (num,))
