"""Feature networks, and the features of any number of images on all devices.

A feature network is a value: `inception.load()`, `dinov2.load()`, or an own function by
`FeatureNetwork.from_function`. `extract` runs it.
"""

import dataclasses
import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from ddpm_jax.mesh import BATCH_AXES, make_mesh

Features = dict[str, np.ndarray]
"""By tap, (n, d) float32."""

Apply = Callable[[Any, jax.Array], dict[str, jax.Array]]
"""(params, images (n, h, w, c) uint8) -> features by tap, (n, d) each."""


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["params"],
    meta_fields=[
        *("apply", "name", "taps", "channels", "checksum", "published"),
        *("resize", "size", "input"),
    ],
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureNetwork:
    """A network whose features are compared; a pytree of its parameters.

    Attributes:
        params: any pytree.
        apply: (params, images) -> features by tap; images are (n, h, w, c) uint8, and
            features (n, d). It resizes and scales by itself.
        name: of the network, for tables and files.
        taps: the names of its features; None where only running it says them.
        channels: of the images it takes; None = any.
        checksum: SHA-256 of the file of its weights; None = not known.
        published: whether that is the file that everybody's numbers are made with.
        resize: the rule by which it resizes; None = it takes images as they are.
        size: pixels on a side after that; None = as they are.
        input: how the pixels 0..255 are scaled.
    """

    params: Any
    apply: Apply
    name: str
    taps: tuple[str, ...] | None = None
    channels: int | None = None
    checksum: str | None = None
    published: bool = False
    resize: str | None = None
    size: int | None = None
    input: str | None = None

    @classmethod
    def from_function(
        cls,
        name: str,
        function: Callable[..., Any],
        *,
        params: Any = None,
        **facts: Any,
    ) -> "FeatureNetwork":
        """A network of one's own.

        Args:
            name: for tables and files.
            function: images (n, h, w, c) uint8 -> features (n, d), called "features",
                or a dict of them by name. With params it is called with them first.
            params: what the function is given; None = nothing.
            facts: the other attributes.
        """
        apply = _Own(function, params is not None)
        return cls(params=params, apply=apply, name=name, **facts)


@dataclasses.dataclass(frozen=True)
class _Own:
    """A user's function as a network's `apply`."""

    function: Callable[..., Any]
    takes_params: bool

    def __call__(self, params: Any, images: jax.Array) -> dict[str, jax.Array]:
        arguments = (params, images) if self.takes_params else (images,)
        features = self.function(*arguments)
        return features if isinstance(features, dict) else {"features": features}


def extract(
    network: FeatureNetwork,
    images: Any,
    *,
    taps: Sequence[str] | None = None,
    batch_size: int = 64,
    grey: Literal["replicate"] | None = None,
    devices: Sequence[jax.Device] | None = None,
    shared: bool = True,
) -> Iterator[Features]:
    """The features of images, in their order, a few batches at a time.

    The same whatever the batches that come in and the batches that are run. With many
    processes each is given all images, runs its share, and has all features.

    Args:
        network: whose features.
        images: (n, h, w, c) uint8, or an iterable of such arrays of any lengths.
        taps: which of its features; None = all.
        batch_size: images that a process runs at a time, divided over its devices.
        grey: "replicate" gives grey images to a network of three channels as three
            equal ones; None refuses them.
        devices: that run it; None = all of this process.
        shared: False, if the images are this process's alone, which runs them all.

    Raises:
        ValueError: at once or while iterating, if there are no images, if they are not
            uint8 or not of one size, if their channels are not the network's, or if it
            has no such tap.
    """
    if grey not in (None, "replicate"):
        raise ValueError(f'grey must be "replicate" or None; got {grey!r}')
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    if network.taps is not None:
        _check_taps(network, taps or (), network.taps)
    chosen = None if taps is None else tuple(taps)
    own = list(jax.local_devices() if devices is None else devices)
    return _extract(network, images, chosen, batch_size, grey, own, shared)


def collect(parts: Iterable[Features]) -> Features:
    """All features of an iterator in one array a tap, as metrics of neighbours need.

    Args:
        parts: what `extract` yields: by tap, (b, d) each.

    Returns:
        By tap, (n, d).
    """
    held = list(parts)
    return {tap: np.concatenate([part[tap] for part in held]) for tap in held[0]}


def _extract(
    network: FeatureNetwork,
    images: Any,
    taps: tuple[str, ...] | None,
    batch_size: int,
    grey: str | None,
    devices: list[jax.Device],
    shared: bool,
) -> Iterator[Features]:
    process, count = (jax.process_index(), jax.process_count()) if shared else (0, 1)
    size = -(-batch_size // len(devices)) * len(devices)
    chunks = _chunks(network, images, size, grey)
    first = next(chunks, None)
    if first is None:
        raise ValueError("features need at least one image; got none")
    size = min(size, -(-len(first) // len(devices)) * len(devices))
    mesh = make_mesh(devices)
    divided = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    network = jax.device_put(network, NamedSharding(mesh, PartitionSpec()))
    running: deque[tuple[list[int], dict[str, jax.Array]]] = deque()
    chunks = itertools.chain([first], chunks)
    while group := list(itertools.islice(chunks, count)):
        # All processes run the same number of batches of the same size.
        mine = _padded(group[min(process, len(group) - 1)], size)
        found = _features(network, jax.device_put(mine, divided), taps)
        running.append(([len(chunk) for chunk in group], found))
        if len(running) > 1:  # the next batch is made ready while one runs
            yield _gathered(*running.popleft(), count)
    while running:
        yield _gathered(*running.popleft(), count)


@functools.partial(jax.jit, static_argnames="taps")
def _features(
    network: FeatureNetwork, images: jax.Array, taps: tuple[str, ...] | None
) -> dict[str, jax.Array]:
    if images.shape[-1] == 1 and network.channels == 3:
        images = jnp.repeat(images, 3, axis=-1)
    found = network.apply(network.params, images)
    taps = tuple(found) if taps is None else taps
    _check_taps(network, taps, tuple(found))
    for tap in taps:
        shape = found[tap].shape
        if len(shape) != 2 or shape[0] != len(images):
            raise ValueError(
                f"the features {tap} of {network.name} must be (n, d), a row an image; "
                f"of {len(images)} images they are {shape}"
            )
    return {tap: found[tap].astype(jnp.float32) for tap in taps}


def _gathered(
    lengths: list[int], found: dict[str, jax.Array], processes: int
) -> Features:
    """The rows of images out of every process's padded batch."""
    own = jax.device_get(found)
    if processes > 1:
        rows = multihost_utils.process_allgather(own)  # (process, size, d)
    else:
        rows = {tap: array[None] for tap, array in own.items()}
    return {
        tap: np.concatenate([array[i, :n] for i, n in enumerate(lengths)])
        for tap, array in rows.items()
    }


def _padded(images: np.ndarray, size: int) -> np.ndarray:
    """As many images as a batch has, the last one repeated."""
    index = np.minimum(np.arange(size), len(images) - 1)
    return images if len(images) == size else images[index]


def _chunks(
    network: FeatureNetwork, images: Any, size: int, grey: str | None
) -> Iterator[np.ndarray]:
    """Images by `size`, the last ones fewer, as they come or cut and joined."""
    batches = [images] if hasattr(images, "shape") else images
    held: list[np.ndarray] = []
    count, shape = 0, None
    for batch in batches:
        batch = batch if isinstance(batch, np.ndarray) else np.asarray(batch)
        _check_batch(network, batch, grey)
        shape = shape or batch.shape[1:]
        if batch.shape[1:] != shape:
            raise ValueError(
                "images must be of one size; "
                f"got {_written(shape)} and then {_written(batch.shape[1:])}"
            )
        while len(batch):
            held.append(batch[: size - count])
            batch = batch[size - count :]
            count += len(held[-1])
            if count == size:
                yield held[0] if len(held) == 1 else np.concatenate(held)
                held, count = [], 0
    if held:
        yield np.concatenate(held)


def _check_batch(network: FeatureNetwork, batch: np.ndarray, grey: str | None) -> None:
    if batch.dtype != np.uint8 or batch.ndim != 4 or 0 in batch.shape[1:]:
        raise ValueError(
            "images must be uint8 of 0..255, (n, height, width, channels); got "
            f"{batch.dtype} of the shape {batch.shape}"
        )
    found, wanted = batch.shape[-1], network.channels
    if wanted is None or found == wanted:
        return
    if found == 1 and wanted == 3:
        if grey is None:
            raise ValueError(
                f"{network.name} takes images of 3 channels, and these are grey; "
                'grey="replicate" gives them as three equal channels'
            )
        return
    raise ValueError(f"{network.name} takes images of {wanted} channels; got {found}")


def _check_taps(
    network: FeatureNetwork, taps: Sequence[str], known: Sequence[str]
) -> None:
    for tap in taps:
        if tap not in known:
            raise ValueError(
                f"{network.name} has the features {', '.join(known)}; got {tap!r}"
            )


def _written(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
