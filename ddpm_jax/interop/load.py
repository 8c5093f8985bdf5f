"""A peer's state dict into our parameters: everything fits, or nothing is loaded."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from ddpm_jax import build
from ddpm_jax.config import Config
from ddpm_jax.interop.keymaps import KeyMap, Peer
from ddpm_jax.interop.tensors import StateDict
from ddpm_jax.networks import UNet
from ddpm_jax.text import some

Shapes = dict[str, tuple[int, ...]]


def parameter_shapes(network: UNet, config: Config) -> Shapes:
    """The shape of each of the network's parameters, by path; none is made."""
    data = config.data
    shape = (1, data.image_size, data.image_size, data.channels)
    label = None if data.num_classes is None else jnp.zeros(1, jnp.int32)
    variables = jax.eval_shape(
        lambda key: network.init(key, jnp.zeros(shape), jnp.zeros(1), label),
        jax.random.key(0),
    )
    flat = flatten_dict(variables["params"], sep="/")
    return {path: leaf.shape for path, leaf in flat.items()}


def load_params(
    tensors: StateDict, config: Config, keymap: Callable[[UNet, Shapes], KeyMap]
) -> Any:
    """The parameters of the config's network, float32, from a peer's state dict.

    Args:
        tensors: the peer's.
        config: of the network, and of the images that it is for.
        keymap: one of `keymaps`, or `ours`.

    Raises:
        ValueError: if a tensor is missing, left over, or of another shape (all of them
            are counted and named), or one does not hold floating point numbers.
    """
    network = build.make_network(config)
    check_size(tensors, network)
    peers = keymap(network, parameter_shapes(network, config))
    check_tensors(tensors, {peer.key: peer.shape for peer in peers.values()})
    return unflatten_dict(_filled(tensors, peers), sep="/")


def ours(network: UNet, shapes: Shapes) -> KeyMap:
    """The key map of our own layout: each parameter under its path, as it is."""
    return {
        path: Peer(path, shape, np.asarray, np.asarray)
        for path, shape in shapes.items()
    }


def check_size(tensors: StateDict, network: UNet) -> None:
    """Holds that a network is not far larger than a state dict, before it is traced.

    Tracing takes time and memory by the number of blocks, which a config of a few bytes
    can put at ten million.

    Raises:
        ValueError: if it has four times as many tensors or numbers, and more.
    """
    widths = [int(network.channels * multiplier) for multiplier in network.multipliers]
    blocks = 2 * network.num_blocks + 1  # of a level, down and up
    # A residual block has two norms, two convolutions and a dense layer.
    least = 10 * blocks * len(widths)
    numbers = 16 * network.channels**2 + 9 * blocks * sum(width**2 for width in widths)
    numbers += (network.num_classes or 0) * 4 * network.channels
    held = sum(math.prod(tensor.shape) for tensor in tensors.values())
    if least > 4 * len(tensors) + 100 or numbers > 4 * held + 10**6:
        raise ValueError(
            f"the weights do not fit the network: it has more than {_about(least)} "
            f"tensors and {_about(numbers)} numbers; the file has {len(tensors):,} and "
            f"{held:,}"
        )


def _about(count: int) -> str:
    return f"{count:,}" if count < 10**15 else f"2^{count.bit_length() - 1}"


def check_tensors(tensors: StateDict, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Holds a state dict against the keys and shapes that a network needs.

    Raises:
        ValueError: naming the keys that are missing, left over or of another shape, or
            of very many the first.
    """
    missing = [key for key in expected if key not in tensors]
    left = [key for key in tensors if key not in expected]
    differ = [
        f"{key}: {tensors[key].shape}, not {shape}"
        for key, shape in expected.items()
        if key in tensors and tensors[key].shape != shape
    ]
    wrong = {"missing": missing, "left over": left, "of another shape": differ}
    if any(wrong.values()):
        lists = "; ".join(
            f"{len(keys)} {what} ({some(keys)})" for what, keys in wrong.items() if keys
        )
        raise ValueError(
            f"the weights do not fit the network: of {len(expected)} tensors {lists}"
        )


def _filled(tensors: StateDict, peers: KeyMap) -> dict[str, np.ndarray]:
    """Each parameter by path; each tensor is read once, though three may share it."""
    sharing: dict[str, list[tuple[str, Peer]]] = {}
    for path, peer in peers.items():
        sharing.setdefault(peer.key, []).append((path, peer))
    params = {}
    for key, parts in sharing.items():
        tensor = tensors[key].read()
        if tensor.dtype != np.float32:
            raise ValueError(
                f"the tensor {key} must hold floating point numbers; got {tensor.dtype}"
            )
        finite = np.isfinite(tensor)
        if not finite.all():
            raise ValueError(
                f"the tensor {key} must hold finite numbers; {np.sum(~finite):,} of "
                f"{finite.size:,} are NaN or infinite, as after a diverged training"
            )
        for path, peer in parts:
            params[path] = np.ascontiguousarray(peer.load(tensor))
    return params
