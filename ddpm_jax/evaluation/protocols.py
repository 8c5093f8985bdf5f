"""The field's evaluators as values: what each fixes, so that a name says it all.

Two figures can be compared only if they come from the same protocol. What differs
between them is the network's resize (a percent of FID and more), how floats become 8
bits, and how many samples there are, of which FID depends in the first digit.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ddpm_jax.evaluation.inception import Resize
from ddpm_jax.images import to_uint8

Rounding = Callable[[Any], np.ndarray]  # floats in [-1, 1] -> uint8


def round_down(x: ArrayLike) -> np.ndarray:
    """As OpenAI's sampling scripts: (x + 1) * 127.5 without its fraction.

    Args:
        x: floats in [-1, 1] of any shape; what lies outside is cut.

    Returns:
        uint8, of the same shape.

    Raises:
        FloatingPointError: if a value is not finite.
    """
    return np.clip((_finite(x) + 1) * 127.5, 0, 255).astype(np.uint8)


def round_half_up(x: ArrayLike) -> np.ndarray:
    """As EDM's generate.py: x * 127.5 + 128 without its fraction.

    Args:
        x: floats in [-1, 1] of any shape; what lies outside is cut.

    Returns:
        uint8, of the same shape.

    Raises:
        FloatingPointError: if a value is not finite.
    """
    return np.clip(_finite(x) * 127.5 + 128, 0, 255).astype(np.uint8)


def _finite(x: ArrayLike) -> np.ndarray:
    values = np.asarray(x)
    if not np.isfinite(values).all():
        raise FloatingPointError("samples must be finite; some are not")
    return values


class Taps(NamedTuple):
    """Which features of a network are which; "" where it has none."""

    pooled: str  # whose mean and covariance FID compares
    logits: str = ""  # of the Inception score
    spatial: str = ""  # of sFID


INCEPTION = Taps("2048", "logits", "spatial")
WITHOUT_BIAS = INCEPTION._replace(logits="logits_unbiased")  # as OpenAI's evaluator


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a published figure was measured."""

    name: str
    network: Literal["inception", "dinov2", "classifier"]
    resize: Resize | None  # of Inception's input; None = the network's own
    rounding: Rounding  # of samples
    num: int  # samples
    metrics: tuple[str, ...]  # in the order of its table; see `evaluation.measure`
    covariance_ddof: int = 1  # the normaliser is n - ddof
    grey: bool = False  # whether grey images are replicated into three channels
    neighbours: int = 3  # of precision and recall
    references: int | None = None  # that they are told from; None = all
    chunks: int | None = None  # Inception score: of so many images; None = 10 splits
    taps: Taps = INCEPTION
    extra: tuple[str, ...] = ()  # metrics that the evaluator itself does not print

    def facts(self) -> dict[str, Any]:
        """What a record says of it."""
        score = f"chunks of {self.chunks}" if self.chunks else "10 shuffled splits"
        return {
            "name": self.name,
            "resize": self.resize,
            "samples": self.num,
            "covariance normaliser": f"n - {self.covariance_ddof}",
            "inception score": f"{score}, logits {self.taps.logits}",
            "neighbours": self.neighbours,
            "images for precision and recall": self.references or "all",
        }


_EXTRA = ("fd_infinity", "kid", "mind", "density", "coverage", "memorisation")
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        # A classifier of the set's own labels; needs no download.
        Protocol(
            name="classifier",
            network="classifier",
            resize=None,
            rounding=to_uint8,
            num=2000,
            metrics=("fd", "kid", "precision", "recall", "density", "coverage", "mind"),
            taps=Taps("features", "logits"),
            extra=("fd_infinity", "is", "memorisation"),
        ),
        # guided-diffusion's evaluator, as in Improved DDPM and ADM.
        Protocol(
            name="openai",
            network="inception",
            resize="tf1_bilinear",
            rounding=round_down,
            num=50_000,
            metrics=("is", "fid", "sfid", "precision", "recall"),
            references=10_000,
            chunks=5000,
            taps=WITHOUT_BIAS,
            extra=_EXTRA,
        ),
        # Heusel et al. 2017, the first. Ho et al. 2020 measured in the same features.
        Protocol(
            name="ttur",
            network="inception",
            resize="tf1_bilinear",
            rounding=to_uint8,
            num=50_000,
            metrics=("fid",),
            extra=("is", *_EXTRA),
        ),
        Protocol(
            name="pytorch-fid",
            network="inception",
            resize="torch_bilinear",
            rounding=to_uint8,
            num=50_000,
            metrics=("fid",),
            extra=("is", *_EXTRA),
            grey=True,  # it opens every file as RGB
        ),
        Protocol(
            name="clean-fid",
            network="inception",
            resize="pil_bicubic",
            rounding=to_uint8,
            num=50_000,
            metrics=("fid", "kid"),
            extra=("fd_infinity", "is", *_EXTRA[2:]),
            grey=True,  # it opens every file as RGB
        ),
        Protocol(
            name="edm",
            network="inception",
            resize="tf1_bilinear",
            rounding=round_half_up,
            num=50_000,
            metrics=("fid",),
            extra=("is", *_EXTRA),
            grey=True,  # a channel is repeated three times
        ),
        # EDM2's second figure, FD in DINOv2's features.
        Protocol(
            name="edm2-dinov2",
            network="dinov2",
            resize=None,
            rounding=round_half_up,
            num=50_000,
            metrics=("fd",),
            taps=Taps("dinov2"),
            extra=_EXTRA,
            grey=True,
        ),
    )
}
SMALL = 32  # images of fewer pixels a side mean nothing to Inception


def usual(image_shape: tuple[int, int, int]) -> str:
    """The protocol of images whose evaluation names none.

    Inception's photographs have colours and 299 pixels; of grey images, or those below
    32 pixels, the set's own classifier knows more.
    """
    height, width, channels = image_shape
    small = min(height, width) < SMALL or channels != 3
    return "classifier" if small else "openai"
