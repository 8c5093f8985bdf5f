"""A trained model as a value: a network with its weights, its chain and its reading.

Training's pictures, figures, evaluation, export and notebooks draw from the same one.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from tqdm import tqdm

from ddpm_jax import build
from ddpm_jax.config import Config
from ddpm_jax.data.labels import label_numbers, listed
from ddpm_jax.diffusion import editing, samplers
from ddpm_jax.diffusion.closures import Closure
from ddpm_jax.diffusion.denoiser import Denoiser
from ddpm_jax.diffusion.guidance import Scale, classifier_free
from ddpm_jax.diffusion.likelihood import BitsPerDim, bits_per_dim
from ddpm_jax.diffusion.noise import Key
from ddpm_jax.diffusion.samplers import Sampler
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.export import USUAL_PLATFORMS, export_sampler
from ddpm_jax.images import grid, to_picture, to_uint8
from ddpm_jax.mesh import BATCH_AXES, make_mesh
from ddpm_jax.networks import Network, UNet
from ddpm_jax.networks.convolutions import DIRECT

if TYPE_CHECKING:
    from PIL.Image import Image

Label = int | str | Sequence[int | str] | np.ndarray | jax.Array | None
"""The class of every image, by number or name, or one each, (num,); None is none."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A network with its weights, its schedule and its config; a pytree.

    `ddpm_jax.load` opens one; `build` makes the parts of one that is not trained.

    Attributes:
        params: the weights, a pytree, as a rule the average over training.
        schedule: the chain that it was trained on.
        config: the run's.
        network: what the weights are of.
        step: updates that it was trained.

    What cannot work (a label that is no class, more steps than the chain has, guidance
    of a model that has never gone without its label, ...) is a ValueError at the call.

    Examples:
        >>> import jax
        >>> import ddpm_jax
        >>> from ddpm_jax import build
        >>> from ddpm_jax.config import Config, NetworkConfig
        >>> small = NetworkConfig(
        ...     channels=8,
        ...     multipliers=(1,),
        ...     num_blocks=1,
        ...     attention_resolutions=(),
        ...     num_groups=4,
        ... )
        >>> config = Config(network=small)  # of the bundled digits
        >>> network = build.make_network(config)
        >>> model = ddpm_jax.Model(  # whose weights are not trained
        ...     params=build.init_params(jax.random.key(0), network, config.data),
        ...     schedule=build.make_schedule(config.diffusion.schedule),
        ...     config=config,
        ...     network=network,
        ...     step=0,
        ... )
        >>> model.step, model.schedule.num_steps
        (0, 1000)
        >>> model.image_shape
        (8, 8, 1)
        >>> images = model.sample(0, num=2, sampler="ddim", steps=3)
        >>> images.shape
        (2, 8, 8, 1)
        >>> model.show(images).mode
        'L'
        >>> [index for index, x in model.sample_iter(0, 2, steps=3)]
        [2, 1, 0]
        >>> model.bits_per_dim(0, images, steps=2).terms.shape
        (2, 2)
    """

    params: Any
    schedule: Schedule
    config: Config = dataclasses.field(metadata={"static": True})
    network: Network = dataclasses.field(metadata={"static": True})
    step: int = dataclasses.field(metadata={"static": True})

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of one image."""
        data = self.config.data
        return (data.image_size, data.image_size, data.channels)

    def denoise(
        self, x: jax.Array, t: jax.Array, label: jax.Array | None = None
    ) -> jax.Array:
        """The network's output for (x_t, t).

        Args:
            x: (num, h, w, c).
            t: steps, (num,), as the network is told them.
            label: (num,) int32; None is an unconditional model, or no label.

        Returns:
            (num, h, w, c), or twice as many channels where the variance is learned.
        """
        network = build.conditional(self.network, self.params)
        output: jax.Array = network(x, t, label)
        return output

    def denoiser(
        self,
        label: Label = None,
        guidance: Scale | None = None,
        *,
        num: int | None = None,
        clip: bool = True,
        rederive: bool | None = None,
    ) -> Denoiser:
        """The model as samplers, likelihood and editing ask it, as its config says.

        Args:
            label: of every image, or one each, (num,); None draws without labels. A
                number, or the name of a class where the run keeps names.
            guidance: scale of classifier-free guidance (Ho & Salimans 2022), or one for
                each image, or a function of the step; None (or 1) is the conditional
                model, larger follows the label more closely.
            num: how many images there will be, to hold labels and scales against.
            clip: False leaves the config's limit on x_0 out.
            rederive: whether eps is computed again from a clipped x_0; None is the
                config's.

        Returns:
            (schedule, x, i) -> what the model says of x, (num, h, w, c), at index i.

        Raises:
            ValueError: if a label is no class or they are not as many as images, or the
                model cannot be guided.
        """
        return build.make_denoiser(
            self.config.diffusion,
            self._guided(label, guidance, num),
            clip=clip,
            rederive=rederive,
        )

    def sample(
        self,
        key: Key,
        num: int,
        *,
        sampler: Sampler | str | None = None,
        steps: int | None = None,
        spacing: str | None = None,
        lambda_min: float | None = None,
        label: Label = None,
        guidance: Scale | None = None,
        progress: bool | None = None,
    ) -> jax.Array:
        """Draws images.

        Image i depends on the key and on i, not on how many are drawn with it. The
        first call for a sampler, a number of steps and a batch shape compiles; other
        seeds, labels and scales run the same program.

        Args:
            key: a key, which is consumed, or a seed; image i depends on it and on i.
            num: how many.
            sampler: what `diffusion.samplers` makes, or its name, as on the command
                line; None is "ddpm".
            steps: how many of the schedule's steps to visit; None visits all.
            spacing: which ones, as `build.make_schedule` names it; None is the
                sampler's.
            lambda_min: where that function cuts the chain, in log(alpha / sigma).
            label: of every image, or one each, (num,); None draws without labels. A
                number, or the name of a class where the run keeps names.
            guidance: scale of classifier-free guidance (Ho & Salimans 2022), or one for
                each image, or a function of the step; None (or 1) is the conditional
                model, larger follows the label more closely.
            progress: show a bar; None shows one after the first second, where somebody
                looks (a terminal, a notebook). There is none under jit.

        Returns:
            Images, (num, h, w, c), in [-1, 1].

        Raises:
            ValueError: as `denoiser` and `walk`.
        """
        denoise = self.denoiser(label, guidance, num=num)
        sampler, schedule = self.walk(sampler, steps, spacing, lambda_min)
        keys = self._divide(build.image_keys(key, 0, num))
        shape = (num, *self.image_shape)
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
        key: Key,
        num: int,
        *,
        first: int = 0,
        every: int = 1,
        sampler: Sampler | str | None = None,
        steps: int | None = None,
        spacing: str | None = None,
        lambda_min: float | None = None,
        label: Label = None,
        guidance: Scale | None = None,
        rederive: bool | None = None,
    ) -> Iterator[tuple[int, jax.Array]]:
        """Yields (index, x) every so many steps of what `sample` does; (0, x_0) last.

        Args:
            key: a key, which is consumed, or a seed; image i depends on it and on i.
            num: how many images.
            first: the images are first..first + num - 1 of this key.
            every: steps between what is yielded, at least 1.
            sampler: what `diffusion.samplers` makes, or its name, as on the command
                line; None is "ddpm".
            steps: how many of the schedule's steps to visit; None visits all.
            spacing: which ones, as `build.make_schedule` names it; None is the
                sampler's.
            lambda_min: where that function cuts the chain, in log(alpha / sigma).
            label: of every image, or one each, (num,); None draws without labels. A
                number, or the name of a class where the run keeps names.
            guidance: scale of classifier-free guidance (Ho & Salimans 2022), or one for
                each image, or a function of the step; None (or 1) is the conditional
                model, larger follows the label more closely.
            rederive: as for `denoiser`.

        Returns:
            An iterator of pairs of an index and x, (num, h, w, c).

        Raises:
            ValueError: as `sample`, and if every < 1.
        """
        denoise = self.denoiser(label, guidance, num=num, rederive=rederive)
        sampler, schedule = self.walk(sampler, steps, spacing, lambda_min)
        keys = self._divide(build.image_keys(key, first, num))
        shape = (num, *self.image_shape)
        return samplers.sample_iter(
            keys, denoise, schedule, shape, sampler=sampler, every=every
        )

    def bits_per_dim(
        self,
        key: Key,
        images: jax.Array,
        *,
        steps: int | None = None,
        label: Label = None,
    ) -> BitsPerDim:
        """The bound on the likelihood of images (Ho et al. 2020, eq. 5).

        As `diffusion.likelihood.bits_per_dim`, image i with noise of its own: an
        estimate does not depend on the batch.

        Args:
            key: a key, which is consumed, or a seed; image i depends on it and on i.
            images: (num, h, w, c), 8-bit data in [-1, 1].
            steps: how many of the schedule's steps to visit; None visits all.
            label: of every image, or one each, (num,); None draws without labels. A
                number, or the name of a class where the run keeps names.

        Returns:
            The bound in bits/dim and its parts, (num,) and (num, T).

        Raises:
            ValueError: if images are not the model's, or as `denoiser` and `walk`.
        """
        denoise = self._denoiser_of(images, label)
        _, schedule = self.walk(steps=steps)
        keys = build.image_keys(key, 0, len(images))
        return bits_per_dim(keys, denoise, schedule, images)

    def image_to_image(
        self,
        key: Key,
        images: jax.Array,
        *,
        start: float = 0.5,
        sampler: Sampler | str | None = None,
        steps: int | None = None,
        spacing: str | None = None,
        label: Label = None,
        guidance: Scale | None = None,
    ) -> jax.Array:
        """Images like those given (SDEdit: Meng et al. 2022).

        As `diffusion.editing.image_to_image`.

        Args:
            key: a key, which is consumed, or a seed; image i depends on it and on i.
            images: (num, h, w, c), floats in [-1, 1].
            start: how much of the chain is walked, in (0, 1]: the larger, the less is
                left of the images.
            sampler: what `diffusion.samplers` makes, or its name, as on the command
                line; None is "ddpm".
            steps: how many of the schedule's steps to visit; None visits all.
            spacing: which ones, as `build.make_schedule` names it; None is the
                sampler's.
            label: of every image, or one each, (num,); None draws without labels. A
                number, or the name of a class where the run keeps names.
            guidance: scale of classifier-free guidance (Ho & Salimans 2022), or one for
                each image, or a function of the step; None (or 1) is the conditional
                model, larger follows the label more closely.

        Returns:
            Images, (num, h, w, c), in [-1, 1].

        Raises:
            ValueError: if images are not the model's, start lies outside (0, 1], or as
                `denoiser` and `walk`.
        """
        denoise = self._denoiser_of(images, label, guidance)
        sampler, schedule = self.walk(sampler, steps, spacing)
        keys, index = build.image_keys(key, 0, len(images)), _index(start, schedule)
        return editing.image_to_image(
            keys, denoise, schedule, images, start_index=index, sampler=sampler
        )

    def inpaint(
        self,
        key: Key,
        images: jax.Array,
        mask: jax.Array,
        *,
        jump: int = 10,
        resample: int = 10,
        sampler: Sampler | str | None = None,
        steps: int | None = None,
        spacing: str | None = None,
        label: Label = None,
        guidance: Scale | None = None,
    ) -> jax.Array:
        """The images where the mask is 1, and what the model thinks fits elsewhere.

        RePaint (Lugmayr et al. 2022), as `diffusion.editing.inpaint`.

        Args:
            key: a key, which is consumed, or a seed; image i depends on it and on i.
            images: (num, h, w, c), floats in [-1, 1].
            mask: 1 for known and 0 for unknown, (num, h, w, c), (num, h, w, 1) or
                (h, w, 1).
            jump: steps between two ways back up, at least 1.
            resample: how often each stretch is walked down; 1 is plain masking.
            sampler: what `diffusion.samplers` makes, or its name, as on the command
                line; None is "ddpm".
            steps: how many of the schedule's steps to visit; None visits all.
            spacing: which ones, as `build.make_schedule` names it; None is the
                sampler's.
            label: of every image, or one each, (num,); None draws without labels. A
                number, or the name of a class where the run keeps names.
            guidance: scale of classifier-free guidance (Ho & Salimans 2022), or one for
                each image, or a function of the step; None (or 1) is the conditional
                model, larger follows the label more closely.

        Returns:
            Images, (num, h, w, c), in [-1, 1].

        Raises:
            ValueError: if images are not the model's, the mask does not fit them, jump
                or resample is below 1, or as `denoiser` and `walk`.
        """
        denoise = self._denoiser_of(images, label, guidance)
        sampler, schedule = self.walk(sampler, steps, spacing)
        keys = build.image_keys(key, 0, len(images))
        moves = {"jump": jump, "resample": resample}
        return editing.inpaint(
            keys, denoise, schedule, images, mask, sampler=sampler, **moves
        )

    def interpolate(
        self,
        key: Key,
        first: jax.Array,
        second: jax.Array,
        weights: jax.Array,
        *,
        start: float = 0.5,
        sampler: Sampler | str | None = None,
        steps: int | None = None,
        spacing: str | None = None,
        label: Label = None,
        guidance: Scale | None = None,
    ) -> jax.Array:
        """Images between two (Ho et al. 2020, section 4.4).

        As `diffusion.editing.interpolate`.

        Args:
            key: a key, which is consumed, or a seed; image i depends on it and on i.
            first: one image, (h, w, c), floats in [-1, 1].
            second: another.
            weights: shares of the second image, (count,).
            start: how much of the chain is walked, in (0, 1].
            sampler: what `diffusion.samplers` makes, or its name, as on the command
                line; None is "ddpm".
            steps: how many of the schedule's steps to visit; None visits all.
            spacing: which ones, as `build.make_schedule` names it; None is the
                sampler's.
            label: of every image, or one each, (num,); None draws without labels. A
                number, or the name of a class where the run keeps names.
            guidance: scale of classifier-free guidance (Ho & Salimans 2022), or one for
                each image, or a function of the step; None (or 1) is the conditional
                model, larger follows the label more closely.

        Returns:
            Images, (count, h, w, c), in [-1, 1].

        Raises:
            ValueError: if images are not the model's, start lies outside (0, 1], or as
                `denoiser` and `walk`.
        """
        self._check_images(jnp.stack([first, second]))
        sampler, schedule = self.walk(sampler, steps, spacing)
        return editing.interpolate(
            key,
            self.denoiser(label, guidance, num=len(weights)),
            schedule,
            first,
            second,
            weights,
            start_index=_index(start, schedule),
            sampler=sampler,
        )

    def invert(
        self,
        images: jax.Array,
        *,
        steps: int | None = None,
        spacing: str | None = None,
        label: Label = None,
    ) -> jax.Array:
        """The latents x_T from which DDIM without clipping leads back to the images.

        As `diffusion.samplers.ddim_invert` (Song et al. 2021, section 4.3).

        Args:
            images: (num, h, w, c), floats in [-1, 1].
            steps: how many of the schedule's steps to visit; None visits all.
            spacing: which ones, as `build.make_schedule` names it; None is DDIM's.
            label: of every image, or one each, (num,); None draws without labels. A
                number, or the name of a class where the run keeps names.

        Returns:
            Latents, (num, h, w, c).

        Raises:
            ValueError: if images are not the model's, or as `denoiser` and `walk`.
        """
        denoise = self._denoiser_of(images, label, clip=False)
        _, schedule = self.walk("ddim", steps, spacing)
        return samplers.ddim_invert(denoise, schedule, images)

    def export(
        self,
        path: pathlib.Path | str,
        *,
        sampler: Sampler | str | None = None,
        steps: int | None = None,
        spacing: str | None = None,
        lambda_min: float | None = None,
        platforms: Sequence[str] = USUAL_PLATFORMS,
    ) -> None:
        """Writes the sampler to one file that runs with jax alone.

        Args:
            path: the file.
            sampler: as `sample` takes it; part of the file.
            steps: as `sample` takes it; part of the file.
            spacing: as `sample` takes it; part of the file.
            lambda_min: as `sample` takes it; part of the file.
            platforms: where the file can run, of `export.PLATFORMS`; one file serves
                them all.

        Raises:
            ImportError: if flatbuffers is not installed.
            ValueError: as `export.export_sampler`.
            OSError: if the file cannot be written.
        """
        model = self
        if isinstance(self.network, UNet):  # the file may run on another platform
            network = self.network.clone(convolutions=DIRECT)
            model = dataclasses.replace(self, network=network)
        export_sampler(
            model,
            path,
            sampler=sampler,
            steps=steps,
            spacing=spacing,
            lambda_min=lambda_min,
            platforms=platforms,
        )

    def show(self, images: jax.Array, *, columns: int | None = None) -> "Image":
        """A grid of images, as a notebook displays it.

        Args:
            images: (num, h, w, c), floats in [-1, 1].
            columns: images in a row; None is nearly square.

        Returns:
            A picture of Pillow's.

        Raises:
            ValueError: if they are no images of floats.
            FloatingPointError: if a value is not finite.
        """
        return to_picture(grid(to_uint8(images), columns))

    def over_local_devices(self) -> "Model":
        """The model with its weights on every device of this process.

        A draw of as many images as the devices divide is then divided among them.

        Returns:
            The same model; itself where there is one device.
        """
        devices = jax.local_devices()
        if len(devices) == 1:
            return self
        everywhere = PartitionSpec()  # type: ignore[no-untyped-call]
        whole = NamedSharding(make_mesh(devices), everywhere)
        return dataclasses.replace(self, params=jax.device_put(self.params, whole))

    def _divide(self, keys: jax.Array) -> jax.Array:
        """The keys of a batch, over the devices that hold the weights."""
        place = getattr(jax.tree.leaves(self.params)[0], "sharding", None)
        if not isinstance(place, NamedSharding) or _is_traced(keys):
            return keys
        if len(keys) % place.mesh.size or set(BATCH_AXES) - set(place.mesh.axis_names):
            return keys
        divided = PartitionSpec(BATCH_AXES)  # type: ignore[no-untyped-call]
        keys = jax.device_put(keys, NamedSharding(place.mesh, divided))
        return keys

    def walk(
        self,
        sampler: Sampler | str | None = None,
        steps: int | None = None,
        spacing: str | None = None,
        lambda_min: float | None = None,
    ) -> tuple[Sampler, Schedule]:
        """The sampler, and the chain that it walks.

        Args:
            sampler: what `diffusion.samplers` makes, or its name, as on the command
                line; None is "ddpm".
            steps: how many of the schedule's steps to visit; None visits all.
            spacing: which ones, as `build.make_schedule` names it; None is the
                sampler's.
            lambda_min: where that function cuts the chain, in log(alpha / sigma).

        Returns:
            Both, for `diffusion.samplers.sample`.

        Raises:
            ValueError: if there is no such sampler or spacing, the chain has fewer
                steps, or spacing or lambda_min are given without steps.
        """
        build.check_spacing(steps, spacing, lambda_min)
        if sampler is None or isinstance(sampler, str):
            sampler = build.make_sampler(sampler or "ddpm")
        samplers.check_sampler(sampler)
        schedule = self.schedule
        if steps is not None:
            schedule = build.respaced(
                schedule,
                self.config.diffusion.schedule,
                steps=steps,
                spacing=spacing,
                lambda_min=lambda_min,
                sampler=sampler,
            )
        return sampler, schedule

    def _guided(self, label: Label, guidance: Scale | None, num: int | None) -> Closure:
        """The network as (x, t) -> output, its label and scale bound."""
        classes = self.config.data.num_classes
        label = self._checked_label(label, num)
        if label is None and classes is not None and not self.network.null_label:
            raise ValueError(
                f"the model is class-conditional: give a label 0..{classes - 1}"
            )
        if guidance is None:
            return build.bound_network(self.network, self.params, label)
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
        return classifier_free(
            conditional, label, classes, _checked_scale(guidance, num)
        )

    def _checked_label(self, label: Label, num: int | None) -> jax.Array | None:
        data = self.config.data
        if data.num_classes is not None:
            label = label_numbers(label, data.class_names)
        return checked_label(label, data.num_classes, num)

    def _denoiser_of(
        self,
        images: jax.Array,
        label: Label = None,
        guidance: Scale | None = None,
        *,
        clip: bool = True,
    ) -> Denoiser:
        """The denoiser; ValueError unless images are a batch of the model's."""
        self._check_images(images)
        return self.denoiser(label, guidance, num=len(images), clip=clip)

    def _check_images(self, images: jax.Array) -> None:
        """Raises ValueError unless they are a batch of the model's images."""
        shape, kind = jnp.shape(images), jnp.result_type(images)
        if shape[1:] != self.image_shape or not jnp.issubdtype(kind, jnp.floating):
            raise ValueError(
                f"images must be floats in [-1, 1] of shape (num, h, w, c), (h, w, c) "
                f"being {self.image_shape}; got {kind} of shape {shape}"
            )

    def _facts(self) -> dict[str, str]:
        """What a person asks first."""
        count = sum(x.size for x in jax.tree.leaves(self.params))
        data, diffusion = self.config.data, self.config.diffusion
        labels = "none" if data.num_classes is None else f"{data.num_classes} classes"
        if data.class_names is not None:
            labels += f" ({listed(data.class_names)})"
        schedule, own = diffusion.schedule, self.config.network.own
        return {
            "images": "x".join(map(str, self.image_shape)),
            "labels": labels,
            "network": f"{own + ', ' if own else ''}{count:,} parameters",
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


def checked_label(label: Any, classes: int | None, num: int | None) -> jax.Array | None:
    """The labels of `num` images, as a network takes them.

    Args:
        label: one whole number, () or an int, or one for each image, (num,); None is
            none.
        classes: how many there are; None for an unconditional model.
        num: how many images; None is not known.

    Returns:
        () or (num,) int32, or None.

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
    if given.ndim > 1 or (num is not None and given.shape not in ((), (num,))):
        raise ValueError(
            f"there must be one label, or one for each of the {num} images; got "
            f"labels of shape {given.shape}"
        )
    if not isinstance(given, jax.core.Tracer):
        values = np.asarray(given)
        wrong = values[(values < 0) | (values >= classes)]
        if wrong.size:
            raise ValueError(f"a label must lie in 0..{classes - 1}; got {wrong[0]}")
    return jnp.asarray(given, jnp.int32)


def _checked_scale(guidance: Scale, num: int | None) -> Scale:
    """The scale; ValueError unless it is one number or `num`, or a function of t."""
    if callable(guidance) or _is_traced(guidance):
        return guidance
    values = np.asarray(guidance, np.float64)
    if values.ndim > 1 or (num is not None and values.shape not in ((), (num,))):
        raise ValueError(
            f"guidance must be one number, one for each of the {num} images, or a "
            f"function of the step; got shape {values.shape}"
        )
    if not np.all(np.abs(values) <= np.finfo(np.float32).max):
        raise ValueError(f"guidance must be finite in float32; got {guidance}")
    return jnp.asarray(guidance, float)


def _index(start: float, schedule: Schedule) -> int:
    """The index at which so much of the chain, in (0, 1], is still to be walked."""
    if not 0 < start <= 1:
        raise ValueError(f"start must lie in (0, 1]; got {start}")
    return max(round(start * schedule.num_steps) - 1, 0)


def _is_traced(tree: Any) -> bool:
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))
