"""The Inception network of 2015-12-05, in whose features FID is defined.

It is the graph of the TTUR code (Heusel et al. 2017, "GANs trained by a two time-scale
update rule"), with the weights as pytorch-fid published them. It differs from the
Inception v3 of the libraries in its pools, and has 1008 classes.

    network = inception.load()                  # published weights; OpenAI's, TTUR's
    features = extract(network, images, taps=["2048", "spatial"])
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from ddpm_jax.evaluation import resize as rules
from ddpm_jax.evaluation import weights
from ddpm_jax.evaluation.features import FeatureNetwork
from ddpm_jax.evaluation.inception_blocks import (
    BlockA,
    BlockB,
    BlockC,
    BlockD,
    BlockE,
    conv,
    max_pool,
    mean_pool,
    same_max_pool,
)

SIZE = 299
SPATIAL = 7  # channels of the spatial features
TAPS = ("64", "192", "768", "2048", "spatial", "logits_unbiased", "logits")
Resize = Literal["tf1_bilinear", "torch_bilinear", "pil_bicubic"]

_EPSILON = 1e-3  # of its batch norms


def load(
    path: pathlib.Path | str | None = None, *, resize: Resize = "tf1_bilinear"
) -> FeatureNetwork:
    """The network with the published weights, or with those of a file.

    Args:
        path: a `.pth` or `.safetensors` of the layout of pytorch-fid; None = the
            published one, from the cache or the net (`weights.find`).
        resize: how images become 299x299, and with it how they are scaled:
            "tf1_bilinear" as the graph (TTUR, OpenAI, torch-fidelity, EDM),
            "torch_bilinear" as pytorch-fid, "pil_bicubic" as clean-fid.

    Raises:
        ValueError, OSError, ImportError: as `weights.find` and `weights.read` do.
    """
    found = weights.find(weights.INCEPTION, path)
    tensors = weights.read(found.path, shapes(), ignored=("num_batches_tracked",))
    return network(
        tensors, resize=resize, checksum=found.checksum, published=found.published
    )


def network(
    tensors: Mapping[str, np.ndarray],
    *,
    resize: Resize = "tf1_bilinear",
    checksum: str | None = None,
    published: bool = False,
) -> FeatureNetwork:
    """The network (Szegedy et al. 2016) with weights of the layout of pytorch-fid.

    Args:
        tensors: arrays by key, of the shapes that `shapes` lists.
        resize: as for `load`.
        checksum: SHA-256 of the file that they are from; None = not known.
        published: whether that is the file that everybody's numbers are made with.

    Returns:
        Images (n, h, w, 3) uint8 -> features (n, d) by tap.

    Raises:
        ValueError: if there is no such resize, or if the tensors are not the network's.
    """
    if resize not in _INPUTS:
        raise ValueError(f"resize must be one of {', '.join(_INPUTS)}; got {resize!r}")
    weights.check(tensors, shapes(), ignored=("num_batches_tracked",))
    return FeatureNetwork(
        params=_folded(tensors),
        apply=_Features(_INPUTS[resize]),
        name="inception-2015-12-05",
        taps=TAPS,
        channels=3,
        checksum=checksum,
        published=published,
        resize=resize,
        size=SIZE,
        input=_INPUTS[resize].written,
    )


def shapes() -> dict[str, tuple[int, ...]]:
    """The tensors that its weights consist of, under the names of pytorch-fid."""
    expected = {"fc.weight": (1008, 2048), "fc.bias": (1008,)}
    for name, (height, width, before, after) in _kernels().items():
        expected[f"{name}.conv.weight"] = (after, before, height, width)
        for part in ("weight", "bias", "running_mean", "running_var"):
            expected[f"{name}.bn.{part}"] = (after,)
    return expected


def _kernels() -> dict[str, tuple[int, ...]]:
    """The shape of every convolution's kernel, by its name; none is made."""
    x = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
    made = jax.eval_shape(Inception().init, jax.random.key(0), x)
    flat = flatten_dict(made["params"])
    return {
        ".".join(path[:-1]): leaf.shape
        for path, leaf in flat.items()
        if path[-1] == "kernel" and path[0] != "fc"
    }


def _folded(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The parameters; each batch norm becomes a factor of its kernel, and a bias."""
    params = {
        ("fc", "kernel"): np.asarray(tensors["fc.weight"], np.float32).T,
        ("fc_bias",): np.asarray(tensors["fc.bias"], np.float32),
    }
    for name in _kernels():
        kernel, gain, bias, mean, variance = (
            np.asarray(tensors[f"{name}.{part}"], np.float64)
            for part in (
                *("conv.weight", "bn.weight", "bn.bias"),
                *("bn.running_mean", "bn.running_var"),
            )
        )
        factor = gain / np.sqrt(variance + _EPSILON)
        path = tuple(name.split("."))
        folded = kernel.transpose(2, 3, 1, 0) * factor
        params[*path, "kernel"] = folded.astype(np.float32)
        params[*path, "bias"] = (bias - mean * factor).astype(np.float32)
    return unflatten_dict(params)


@dataclasses.dataclass(frozen=True)
class _Input:
    """How uint8 images become the network's input."""

    resize: Callable[[jax.Array, rules.Size], jax.Array]
    centre: float
    scale: float

    @property
    def written(self) -> str:
        return f"(x - {self.centre:g}) / {self.scale:g}"


_INPUTS: dict[str, _Input] = {
    "tf1_bilinear": _Input(rules.tf1_bilinear, 128.0, 128.0),
    "torch_bilinear": _Input(rules.torch_bilinear, 127.5, 127.5),
    "pil_bicubic": _Input(rules.pil_bicubic, 128.0, 128.0),
}


@dataclasses.dataclass(frozen=True)
class _Features:
    """(params, uint8 images of any size) -> the features by tap."""

    input: _Input

    def __call__(self, params: Any, images: jax.Array) -> dict[str, jax.Array]:
        x = self.input.resize(images, (SIZE, SIZE))
        x = (x - self.input.centre) / self.input.scale
        taps: Any = Inception().apply({"params": params}, x)
        return taps


class Inception(nn.Module):
    """The network from scaled images of 299x299 on, its batch norms folded.

    The taps "64", "192", "768" and "2048" are means over all places after the first two
    pools, Mixed_6e and Mixed_7c. "spatial" is what OpenAI's evaluator calls
    `mixed_6/conv:0`: the first 1x1 branch of Mixed_6d after its ReLU, of which the
    first 7 channels at 17x17 places are 2023 numbers. "logits_unbiased" are the logits
    without the bias, as the Inception score of OpenAI's evaluator and torch-fidelity
    has them.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        """(n, 299, 299, 3) -> features by tap, each (n, d)."""
        taps = {}
        x = conv(x, 32, 3, "Conv2d_1a_3x3", stride=2)
        x = conv(x, 32, 3, "Conv2d_2a_3x3", padding="VALID")
        x = conv(x, 64, 3, "Conv2d_2b_3x3")
        x = max_pool(x)
        taps["64"] = x.mean((1, 2))
        x = conv(x, 80, 1, "Conv2d_3b_1x1")
        x = conv(x, 192, 3, "Conv2d_4a_3x3", padding="VALID")
        x = max_pool(x)
        taps["192"] = x.mean((1, 2))
        for name, pooled in (("5b", 32), ("5c", 64), ("5d", 64)):
            x = BlockA(pooled, name=f"Mixed_{name}")(x)
        x = BlockB(name="Mixed_6a")(x)
        for name, width in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
            x = BlockC(width, name=f"Mixed_{name}")(x)
            if name == "6d":
                taps["spatial"] = x[..., :SPATIAL].reshape(len(x), -1)
        taps["768"] = x.mean((1, 2))
        x = BlockD(name="Mixed_7a")(x)
        x = BlockE(mean_pool, name="Mixed_7b")(x)
        x = BlockE(same_max_pool, name="Mixed_7c")(x)
        taps["2048"] = x = x.mean((1, 2))
        fc = nn.Dense(1008, use_bias=False, precision="highest", name="fc")
        taps["logits_unbiased"] = x = fc(x)
        bias = self.param("fc_bias", nn.initializers.zeros, (1008,))
        taps["logits"] = x + bias[None]
        return taps
