"""DINOv2's ViT-L/14, in whose features FD-DINOv2 is defined (Stein et al. 2023).

Images and embeddings of positions are resized as in EDM2's evaluation (Karras et al.
2024) and in DINOv2's own code (Oquab et al. 2023), whose state dict is read.

    network = dinov2.load()
    features = extract(network, images)  # tap "dinov2", 1024 numbers
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from ddpm_jax.evaluation import weights
from ddpm_jax.evaluation.features import FeatureNetwork
from ddpm_jax.evaluation.resize import keys_kernel, torch_bicubic

# ImageNet's mean and standard deviation of red, green and blue in [0, 1].
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_OFFSET = 0.1  # which DINOv2's code adds to the number of patches on a side
# What a block consists of; of its products our names and DINOv2's.
_NORMS, _AFFINE, _SCALES = ("norm1", "norm2"), ("weight", "bias"), ("ls1", "ls2")
_PRODUCTS = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}


class DinoV2(nn.Module):
    """The vision transformer (Oquab et al. 2024); the defaults are ViT-L/14.

    Attributes:
        features: of a token.
        depth: blocks.
        heads: of attention.
        patch: pixels on a side of a token.
        size: pixels on a side of an image.
        grid: tokens on a side of the images that the state dict is of: 518 / 14.
        mlp_ratio: features within a block's perceptron, of those of a token.
    """

    features: int = 1024
    depth: int = 24
    heads: int = 16
    patch: int = 14
    size: int = 224
    grid: int = 37
    mlp_ratio: int = 4

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(n, size, size, 3) -> the class token after the last norm, (n, features)."""
        width, zeros = self.features, nn.initializers.zeros
        side = self.size // self.patch
        patch = (self.patch, self.patch)
        embed = nn.Conv(width, patch, patch, "VALID", precision="highest", name="patch")
        x = embed(jax.lax.optimization_barrier(x)).reshape(len(x), side**2, width)
        token = self.param("cls_token", zeros, (1, 1, width))
        x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, width)), x], axis=1)
        x = x + self.param("positions", zeros, (1, side**2 + 1, width))
        for i in range(self.depth):
            x = _Block(self.heads, self.mlp_ratio * width, name=f"blocks_{i}")(x)
        return _norm("norm")(x[:, 0])

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors of its state dict, under DINOv2's names."""
        width, hidden = self.features, self.mlp_ratio * self.features
        block = {
            **{f"{norm}.{part}": (width,) for norm in _NORMS for part in _AFFINE},
            **{f"{scale}.gamma": (width,) for scale in _SCALES},
            **_dense("attn.qkv", width, 3 * width),
            **_dense("attn.proj", width, width),
            **_dense("mlp.fc1", width, hidden),
            **_dense("mlp.fc2", hidden, width),
        }
        return {
            "cls_token": (1, 1, width),
            "pos_embed": (1, self.grid**2 + 1, width),
            "patch_embed.proj.weight": (width, 3, self.patch, self.patch),
            "patch_embed.proj.bias": (width,),
            "norm.weight": (width,),
            "norm.bias": (width,),
            **{
                f"blocks.{i}.{key}": shape
                for i in range(self.depth)
                for key, shape in block.items()
            },
        }


class _Block(nn.Module):
    """Attention and a perceptron, each on a norm and scaled by channel."""

    heads: int
    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        n, tokens, width = x.shape
        one = nn.initializers.ones
        scales = [self.param(name, one, (1, 1, width)) for name in _SCALES]
        qkv = _product(3 * width, "qkv")(_norm("norm1")(x))
        q, k, v = jnp.moveaxis(qkv.reshape(n, tokens, 3, self.heads, -1), 2, 0)
        scores = jnp.einsum("nqhc,nkhc->nhqk", q, k, precision="highest")
        attention = jax.nn.softmax(scores / np.float32(np.sqrt(q.shape[-1])), axis=-1)
        found = jnp.einsum("nhqk,nkhc->nqhc", attention, v, precision="highest")
        x = x + scales[0] * _product(width, "proj")(found.reshape(x.shape))
        hidden = _product(self.hidden, "fc1")(_norm("norm2")(x))
        hidden = jax.nn.gelu(hidden, approximate=False)
        return x + scales[1] * _product(width, "fc2")(hidden)


def _norm(name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=1e-6, use_fast_variance=False, name=name)


def _product(features: int, name: str) -> nn.Dense:
    return nn.Dense(features, precision="highest", name=name)


def _dense(name: str, before: int, after: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (after, before), f"{name}.bias": (after,)}


def load(path: pathlib.Path | str | None = None) -> FeatureNetwork:
    """ViT-L/14 with the published weights, or with those of a file.

    Args:
        path: a `.pth` or `.safetensors` of DINOv2's layout; None = the published one,
            from the cache or the net (`weights.find`).

    Raises:
        ValueError, OSError, ImportError: as `weights.find` and `weights.read` do.
    """
    found, vit = weights.find(weights.DINOV2_VITL14, path), DinoV2()
    tensors = weights.read(found.path, vit.shapes(), ignored=("mask_token",))
    return network(tensors, vit, checksum=found.checksum, published=found.published)


def network(
    tensors: Mapping[str, np.ndarray],
    vit: DinoV2 | None = None,
    *,
    name: str = "dinov2-vitl14",
    checksum: str | None = None,
    published: bool = False,
) -> FeatureNetwork:
    """The network (Oquab et al. 2024) with weights of DINOv2's layout.

    Args:
        tensors: arrays by key, of the shapes that `DinoV2.shapes` lists.
        vit: what they are of; None is ViT-L/14.
        name: for tables and files.
        checksum: SHA-256 of the file that they are from; None = not known.
        published: whether that is the file that everybody's numbers are made with.

    Returns:
        Images (n, h, w, 3) uint8 -> features (n, d).

    Raises:
        ValueError: if the tensors are not the network's.
    """
    vit = DinoV2() if vit is None else vit
    weights.check(tensors, vit.shapes(), ignored=("mask_token",))
    return FeatureNetwork(
        params=_params(tensors, vit),
        apply=_Features(vit),
        name=name,
        taps=("dinov2",),
        channels=3,
        checksum=checksum,
        published=published,
        resize="torch_bicubic",
        size=vit.size,
        input="(x / 255 - mean) / std of ImageNet",
    )


@dataclasses.dataclass(frozen=True)
class _Features:
    """(params, uint8 images of any size) -> the class token."""

    vit: DinoV2

    def __call__(self, params: Any, images: jax.Array) -> dict[str, jax.Array]:
        x = torch_bicubic(images, (self.vit.size, self.vit.size)) / 255
        mean, std = (np.array(x, np.float32)[None, None, None] for x in (MEAN, STD))
        token: Any = self.vit.apply({"params": params}, (x - mean) / std)
        return {"dinov2": token}


def _params(tensors: Mapping[str, np.ndarray], vit: DinoV2) -> dict[str, Any]:
    """Our parameters of DINOv2's tensors."""
    arrays = {key: np.asarray(array, np.float32) for key, array in tensors.items()}
    side = vit.size // vit.patch
    params = {
        ("cls_token",): arrays["cls_token"],
        ("positions",): positions(arrays["pos_embed"], vit.grid, side),
        ("patch", "kernel"): arrays["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        ("patch", "bias"): arrays["patch_embed.proj.bias"],
        **_affine(arrays, "norm", ("norm",)),
    }
    for i in range(vit.depth):
        ours, theirs = f"blocks_{i}", f"blocks.{i}"
        for norm in _NORMS:
            params |= _affine(arrays, f"{theirs}.{norm}", (ours, norm))
        for scale in _SCALES:
            params[ours, scale] = arrays[f"{theirs}.{scale}.gamma"][None, None]
        for name, key in _PRODUCTS.items():
            params[ours, name, "kernel"] = arrays[f"{theirs}.{key}.weight"].T
            params[ours, name, "bias"] = arrays[f"{theirs}.{key}.bias"]
    return unflatten_dict(params)


def _affine(
    arrays: Mapping[str, np.ndarray], key: str, path: tuple[str, ...]
) -> dict[tuple[str, ...], np.ndarray]:
    return {
        (*path, "scale"): arrays[f"{key}.weight"],
        (*path, "bias"): arrays[f"{key}.bias"],
    }


def positions(embeddings: np.ndarray, grid: int, side: int) -> np.ndarray:
    """The embeddings of a grid's tokens for another.

    As DINOv2's code (Oquab et al. 2024): PyTorch's bicubic (Keys' kernel with a = -3/4,
    edges repeated, not antialiased) by the factor (side + 0.1) / grid.

    Args:
        embeddings: of the class token and a grid's, (1, 1 + grid * grid, d).
        grid: tokens on its side.
        side: tokens on the side of the other.

    Returns:
        (1, 1 + side * side, d).
    """
    if side == grid:
        return embeddings
    centres = (np.arange(side) + 0.5) * grid / (side + _OFFSET) - 0.5
    lower = np.floor(centres).astype(int)
    matrix = np.zeros((side, grid))
    for shift in (-1, 0, 1, 2):
        place = lower + shift
        kernel = keys_kernel(np.abs(centres - place), -0.75)
        np.add.at(matrix, (np.arange(side), np.clip(place, 0, grid - 1)), kernel)
    first, patches = embeddings[:, :1], embeddings[0, 1:].reshape(grid, grid, -1)
    resized = np.einsum("Yy,yxd,Xx->YXd", matrix, patches, matrix, optimize=True)
    resized = resized.reshape(1, side**2, -1).astype(np.float32)
    return np.concatenate([first, resized], axis=1)
