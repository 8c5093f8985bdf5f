"""A trained model as a value: load a run, then draw from it."""

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from ddpm_jax import build
from ddpm_jax.config import Config, from_dict
from ddpm_jax.diffusion import samplers
from ddpm_jax.diffusion.guidance import classifier_free
from ddpm_jax.diffusion.samplers import Sampler
from ddpm_jax.diffusion.schedules import Schedule, make_schedule, spaced_timesteps
from ddpm_jax.networks import UNet
from ddpm_jax.training import checkpoints


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A network with its averaged weights, its schedule and its config; a pytree."""

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
        spacing: str = "uniform",
        label: int | jax.Array | None = None,
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
            spacing: which ones, as `schedules.spaced_timesteps` names it.
            label: of every image, or (num,) one each; None draws without labels.
            guidance: scale of classifier-free guidance; None (or 1) is the conditional
                model, larger follows the label more closely.
            progress: show a bar; None shows one after the first second, where somebody
                looks (a terminal, a notebook). There is none under jit.

        Raises:
            ValueError: if the model has no labels and one is given, a label is out of
                range, or steps is larger than the schedule has.
        """
        arguments = self._arguments(sampler, steps, spacing, num, label, guidance)
        denoise, schedule, shape, sampler = arguments
        keys = build.image_keys(key, 0, num)
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
        spacing: str = "uniform",
        label: int | jax.Array | None = None,
        guidance: float | jax.Array | None = None,
    ) -> Iterator[tuple[int, jax.Array]]:
        """Yields (index, x) every so many steps of what `sample` does; (0, x_0) last.

        Args:
            first: the images are first..first + num - 1 of this key.
            every: steps between what is yielded.
        """
        arguments = self._arguments(sampler, steps, spacing, num, label, guidance)
        keys = build.image_keys(key, first, num)
        return samplers.sample_iter(
            keys, *arguments[:-1], sampler=arguments[-1], every=every
        )

    def _arguments(self, sampler, steps, spacing, num, label, guidance):
        """(denoise, schedule, shape, sampler) of a draw."""
        data = self.config.data
        shape = (num, data.image_size, data.image_size, data.channels)
        schedule = self.schedule
        if steps is not None and steps != schedule.num_steps:
            kept = spaced_timesteps(schedule.num_steps, steps, spacing=spacing)
            betas = build.make_betas(self.config.diffusion.schedule)
            schedule = make_schedule(betas, timesteps=kept)
        if sampler is None:
            sampler = build.make_sampler(self.config.diffusion, "ddpm")
        return self._denoiser(num, label, guidance), schedule, shape, sampler

    def _denoiser(self, num: int, label, guidance) -> Callable:
        classes = self.config.data.num_classes
        label = checked_label(label, classes, num)
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
        scale = jnp.asarray(guidance, float)
        return classifier_free(conditional, label, classes, scale)

    def __repr__(self) -> str:
        """One line for each thing a person asks first."""
        count = sum(x.size for x in jax.tree.leaves(self.params))
        data, diffusion = self.config.data, self.config.diffusion
        size = f"{data.image_size}x{data.image_size}x{data.channels}"
        kind = "unconditional"
        if data.num_classes is not None:
            kind = f"{data.num_classes} classes"
        return (
            f"Model({size}, {kind}, {count:,} parameters, {self.step:,} updates,\n"
            f"      {diffusion.schedule.num_steps} {diffusion.schedule.kind} steps, "
            f"predicts {diffusion.predict}, {diffusion.variance})"
        )


def load(path: pathlib.Path | str, *, step: int | None = None) -> Model:
    """The model of a run's newest checkpoint (or of `step`): averaged weights alone.

    Raises:
        FileNotFoundError: if the path holds no checkpoint, or not of that step.
        ValueError: if the checkpoint cannot be read.
    """
    directory = pathlib.Path(path) / "checkpoints"
    if not directory.is_dir():
        raise FileNotFoundError(f"{path} is not the workdir of a run: no checkpoints/")
    with checkpoints.open_checkpoints(directory, read_only=True) as manager:
        chosen = checkpoints.latest_step(manager) if step is None else step
        if chosen is None or chosen not in manager.all_steps():
            wanted = "" if step is None else f" of step {step}"
            raise FileNotFoundError(f"{path} holds no complete checkpoint{wanted}")
        config = from_dict(checkpoints.restore_config(manager, chosen))
        network = build.make_network(config)
        shapes = jax.eval_shape(
            lambda key: build.init_params(key, network, config.data), jax.random.key(0)
        )
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        target = checkpoints.abstract(shapes, jax.tree.map(lambda _: device, shapes))
        params = checkpoints.restore_ema(manager, chosen, target)
    return Model(
        params=params,
        schedule=build.make_schedule(config.diffusion.schedule),
        config=config,
        network=network,
        step=chosen,
    )


def _is_traced(tree: Any) -> bool:
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def checked_label(
    label: int | jax.Array | None, classes: int | None, num: int
) -> jax.Array | None:
    """The labels of `num` images, (num,) int32, or None.

    Raises:
        ValueError: if there are no classes, or a concrete label is not one of them.
    """
    if label is None:
        return None
    if classes is None:
        raise ValueError(f"the model has no labels to draw from; got label {label}")
    if not isinstance(label, jax.core.Tracer):
        values = np.asarray(label)
        if values.size and not (0 <= values.min() and values.max() < classes):
            raise ValueError(f"a label must lie in 0..{classes - 1}; got {label}")
    return jnp.broadcast_to(jnp.asarray(label, jnp.int32), (num,))
