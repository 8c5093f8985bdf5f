"""The Frechet distance of a model's samples to its training images, again and again.

Every process draws its share of the samples and runs it through the feature network;
only means and covariances travel. So many samples are fewer than a protocol's: the
distance is too large by a bias of their number, and compares weights of one run.
"""

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from ddpm_jax import build
from ddpm_jax.config import Config, DataConfig
from ddpm_jax.evaluation import networks, weights
from ddpm_jax.evaluation.classifier import network as classifier
from ddpm_jax.evaluation.features import FeatureNetwork, extract
from ddpm_jax.evaluation.frechet import frechet_distance
from ddpm_jax.evaluation.moments import Moments, covariance, empty, moments_of, pooled
from ddpm_jax.evaluation.protocols import PROTOCOLS, Protocol, usual
from ddpm_jax.evaluation.references import dimension
from ddpm_jax.evaluation.self_test import check_compiler
from ddpm_jax.model import Model

READ = 256  # training images that are read at a time
SEED = 0  # of the samples: image i begins as the same noise at every evaluation


class Compared(NamedTuple):
    """The features in which samples are compared, and what the distance is called."""

    network: FeatureNetwork
    protocol: Protocol
    name: str  # "digits-FD", "FID"


def find_compared(data: DataConfig) -> Compared:
    """The features that suit the images: of the set's classifier, or Inception's.

    Args:
        data: the config's section.

    Raises:
        FileNotFoundError: if they are not on this machine; nothing is downloaded.
        ValueError: if the compiler computes wrongly, or weights are damaged.
        ImportError: if the library that reads them is not installed.
    """
    check_compiler()
    protocol = PROTOCOLS[usual((data.image_size, data.image_size, data.channels))]
    if protocol.network == "inception":
        path = weights.cache() / weights.INCEPTION.name
        if not path.is_file():
            raise FileNotFoundError(
                f"evaluation.samples needs Inception's weights, and there is no {path};"
                f" put {weights.INCEPTION.url} there"
            )
        network, name = networks.load(protocol, path, None)
        return Compared(network, protocol, name)
    if data.source == "given":
        raise ValueError(
            "evaluation.samples needs a classifier of the data set, and images that "
            "Python gives have none"
        )
    try:
        network, facts = classifier.find(data)
    except FileNotFoundError:
        raise FileNotFoundError(
            "evaluation.samples needs a classifier of the data set; make it once with "
            f"python -m ddpm_jax.evaluation.classifier {classifier.flags(data)}"
        ) from None
    return Compared(network, protocol, f"{facts.data}-FD")


def drawn(config: Config) -> tuple[str, int | None]:
    """The sampler and the number of steps of the samples; None is all of the chain."""
    own, grids = config.evaluation, config.sample
    return own.sampler or grids.sampler, own.steps or grids.steps


class Distance:
    """Models -> the distances of their samples to the training images."""

    def __init__(
        self, compared: Compared, config: Config, source: Any, *, batch_size: int
    ):
        """Measures the training images.

        Args:
            config: of the models; how many samples, and how they are drawn.
            source: the training images, an `ImageArrays` or an `ImageSource`.
            batch_size: samples that a process draws at a time; what its devices divide.

        Raises:
            ValueError: if the images cannot be read, are not of the network's kind or
                fewer than 2, or if no samples can be drawn so.
        """
        self._compared, self._config, self._batch_size = compared, config, batch_size
        sampler, self._steps = drawn(config)
        self._sampler = build.make_sampler(sampler)
        chain = config.diffusion.schedule
        build.make_schedule(chain, steps=self._steps, sampler=self._sampler)
        data = config.data
        self._dimension = dimension(
            compared.network,
            compared.protocol.taps.pooled,
            (data.image_size, data.image_size, data.channels),
        )
        reference = pooled(self._moments(_share(source)))
        self._reference = reference.mean, covariance(reference)

    def __call__(self, model: Model) -> float:
        """The distance; NaN if a sample is not finite. All processes call it."""
        try:
            own = self._moments(self._samples(model.over_local_devices()))
        except FloatingPointError:
            unknown = np.full(self._dimension, math.nan)
            own = Moments(1, unknown, unknown[:, None] + unknown)
        found = pooled(own)
        if not np.isfinite(found.mean).all():
            return math.nan
        return frechet_distance(found.mean, covariance(found), *self._reference)

    def _samples(self, model: Model) -> Iterator[np.ndarray]:
        """This process's share of them, uint8, batch by batch.

        Raises:
            FloatingPointError: if one is not finite.
        """
        num, size = self._config.evaluation.samples, self._batch_size
        classes = self._config.data.num_classes
        for first in range(jax.process_index() * size, num, jax.process_count() * size):
            numbers = np.arange(first, first + size)
            *_, (_, x) = model.sample_iter(
                SEED,
                size,
                first=first,
                label=None if classes is None else numbers % classes,
                sampler=self._sampler,
                steps=self._steps,
                every=model.schedule.num_steps,
            )
            values = np.asarray(x)[: num - first]
            if not np.isfinite(values).all():
                raise FloatingPointError("a sample is not finite")
            yield self._compared.protocol.rounding(values)

    def _moments(self, batches: Iterator[np.ndarray]) -> Moments:
        """Of the features of this process's images."""
        network, protocol, _ = self._compared
        tap = protocol.taps.pooled
        first = next(batches, None)
        if first is None:
            return empty(self._dimension)
        parts = extract(
            network,
            itertools.chain([first], batches),
            taps=[tap],
            grey="replicate" if protocol.grey else None,
            shared=False,
        )
        return moments_of(part[tap] for part in parts)


def _share(source: Any) -> Iterator[np.ndarray]:
    """This process's part of the images of a source, some at a time."""
    own = range(jax.process_index(), len(source), jax.process_count())
    for first in range(0, len(own), READ):
        yield np.stack([source[i]["image"] for i in own[first : first + READ]])
