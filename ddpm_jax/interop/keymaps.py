"""Where each parameter of a `UNet` lies in the state dicts that others publish.

A key map goes from our parameter's path, "mid_block_0/conv2/kernel", to a `Peer`: the
peer's key, its tensor's shape, and the way from its tensor to our array and back. One
function per layout:

    diffusers   `UNet2DModel`, with the attention names of version 0.18 and later
    ho          DDPM's as DDIM's repository and pesser's publish it
    openai      Improved DDPM and guided diffusion

PyTorch stores a convolution as (out, in, h, w) and a dense layer as (out, in); ours are
(h, w, in, out) and (in, out).
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from ddpm_jax.networks.unet import UNet

Shapes = Mapping[str, tuple[int, ...]]
KeyMap = dict[str, "Peer"]


class Peer(NamedTuple):
    """A place in a peer's state dict.

    Attributes:
        key: the peer's name of the tensor.
        shape: the tensor's shape.
        load: the tensor -> our parameter.
        store: our parameter -> the tensor; None where the tensor holds query, key and
            value together, of which our parameter is only one.
    """

    key: str
    shape: tuple[int, ...]
    load: Callable[[np.ndarray], np.ndarray]
    store: Callable[[np.ndarray], np.ndarray] | None


class _Layout(NamedTuple):
    """The names of one peer; a name that is not listed is the same as ours."""

    outside: Mapping[str, str]  # modules outside the levels
    inside: Callable[[str, int, str, int], str]  # (side, level, kind, i) -> module
    residual: Mapping[str, str]
    attention: Mapping[str, str]
    attention_rank: int  # of attention's kernels, which may be 1x1 convolutions


def diffusers(net: UNet, shapes: Shapes) -> KeyMap:
    """The key map to diffusers' `UNet2DModel`.

    Args:
        net: the network.
        shapes: the shape of each of its parameters, by path.
    """

    def inside(side: str, level: int, kind: str, i: int) -> str:
        # diffusers counts the blocks of the way up from the coarsest.
        block = level if side == "down" else len(net.multipliers) - 1 - level
        kind = {
            "block": "resnet",
            "downsample": "downsampler",
            "upsample": "upsampler",
        }.get(kind, kind)
        return f"{side}_blocks.{block}.{kind}s.{i}"

    layout = _Layout(
        outside={
            "time/dense1": "time_embedding.linear_1",
            "time/dense2": "time_embedding.linear_2",
            "label": "class_embedding",
            "mid_block_0": "mid_block.resnets.0",
            "mid_attention": "mid_block.attentions.0",
            "mid_block_1": "mid_block.resnets.1",
            "norm_out": "conv_norm_out",
        },
        inside=inside,
        residual={"embed": "time_emb_proj", "shortcut": "conv_shortcut"},
        attention={
            "norm": "group_norm",
            "query": "to_q",
            "key": "to_k",
            "value": "to_v",
            "out": "to_out.0",
        },
        attention_rank=2,
    )
    return {path: _peer(path, shape, layout) for path, shape in shapes.items()}


def modern_diffusers_key(key: str) -> str:
    """Today's key for one of diffusers before 0.18; any other comes back as it is."""
    names = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    old = re.fullmatch(r"(.*attentions\.\d+\.)(query|key|value|proj_attn)(\..*)", key)
    return f"{old[1]}{names[old[2]]}{old[3]}" if old else key


def ho(net: UNet, shapes: Shapes) -> KeyMap:
    """The key map to DDPM's own layout in PyTorch; arguments as in `diffusers`."""

    def inside(side: str, level: int, kind: str, i: int) -> str:
        if kind in ("block", "attention"):
            return f"{side}.{level}.{'attn' if kind == 'attention' else kind}.{i}"
        return f"{side}.{level}.{kind}"

    layout = _Layout(
        outside={
            "time/dense1": "temb.dense.0",
            "time/dense2": "temb.dense.1",
            "mid_block_0": "mid.block_1",
            "mid_attention": "mid.attn_1",
            "mid_block_1": "mid.block_2",
        },
        inside=inside,
        residual={"embed": "temb_proj", "shortcut": "nin_shortcut"},
        attention={"query": "q", "key": "k", "value": "v", "out": "proj_out"},
        attention_rank=4,
    )
    return {path: _peer(path, shape, layout) for path, shape in shapes.items()}


def openai(net: UNet, shapes: Shapes, *, legacy_attention: bool = True) -> KeyMap:
    """The key map to Improved DDPM and guided diffusion.

    Args:
        net: the network.
        shapes: the shape of each of its parameters, by path.
        legacy_attention: the joint tensor has query, key and value within each head;
            with use_new_attention_order it has the heads within each of the three.
    """
    per_level = net.num_blocks + 1

    def inside(side: str, level: int, kind: str, i: int) -> str:
        if kind in ("downsample", "upsample"):
            i = net.num_blocks
        place = int(kind == "attention")
        if side == "down":
            return f"input_blocks.{1 + level * per_level + i}.{place}"
        if kind == "upsample":  # the last part of its level's last block
            place = 1 + (f"up_{level}_attention_{i}/norm/scale" in shapes)
        above = len(net.multipliers) - 1 - level
        return f"output_blocks.{above * per_level + i}.{place}"

    layout = _Layout(
        outside={
            "time/dense1": "time_embed.0",
            "time/dense2": "time_embed.2",
            "label": "label_emb",
            "conv_in": "input_blocks.0.0",
            "mid_block_0": "middle_block.0",
            "mid_attention": "middle_block.1",
            "mid_block_1": "middle_block.2",
            "norm_out": "out.0",
            "conv_out": "out.2",
        },
        inside=inside,
        residual={
            "norm1": "in_layers.0",
            "conv1": "in_layers.2",
            "embed": "emb_layers.1",
            "norm2": "out_layers.0",
            "conv2": "out_layers.3",
            "shortcut": "skip_connection",
        },
        attention={"query": "qkv", "key": "qkv", "value": "qkv", "out": "proj_out"},
        attention_rank=3,
    )
    keymap = {}
    for path, shape in shapes.items():
        peer = _peer(path, shape, layout)
        if ".qkv." in peer.key:
            width = shape[-1]
            heads = net.num_heads
            if net.head_channels is not None:
                heads = width // net.head_channels
            part = ("query", "key", "value").index(path.split("/")[1])
            peer = _joint(peer, part, heads, legacy_attention)
        elif re.match(r"down_\d+_downsample/conv/", path):
            peer = peer._replace(key=peer.key.replace(".conv.", ".op."))
        keymap[path] = peer
    return keymap


def _peer(path: str, shape: tuple[int, ...], layout: _Layout) -> Peer:
    """The place of one parameter."""
    module, _, leaf = path.rpartition("/")
    if module not in layout.outside and "/" in module:
        module, inner = module.split("/")
        names = layout.attention if "attention" in module else layout.residual
        inner = "." + names.get(inner, inner)
    else:
        inner = ""
    if inside := re.fullmatch(r"(down|up)_(\d+)_([a-z]+)(?:_(\d+))?", module):
        side, level, kind, i = inside.groups("0")
        name = layout.inside(side, int(level), kind, int(i))
    else:
        name = layout.outside.get(module, module)
    key = f"{name}{inner}.{'bias' if leaf == 'bias' else 'weight'}"
    if leaf != "kernel":
        return Peer(key, shape, np.asarray, np.asarray)
    if len(shape) == 4:
        return Peer(key, tuple(shape[i] for i in _TO_OIHW), _from_oihw, _to_oihw)
    rank = layout.attention_rank if "attention" in module else 2
    full = shape[::-1] + (1,) * (rank - 2)
    return Peer(key, full, _from_oi, lambda kernel: kernel.T.reshape(full))


def _joint(peer: Peer, part: int, heads: int, legacy: bool) -> Peer:
    """One part of three in a tensor that has them along its first axis."""
    width, *rest = peer.shape

    def load(tensor: np.ndarray) -> np.ndarray:
        split = (heads, 3) if legacy else (3, heads)
        tensor = tensor.reshape(*split, width // heads, *rest)
        return peer.load(tensor.take(part, axis=int(legacy)).reshape(peer.shape))

    return Peer(peer.key, (3 * width, *rest), load, None)


_TO_OIHW = (3, 2, 0, 1)


def _to_oihw(kernel: np.ndarray) -> np.ndarray:
    return kernel.transpose(_TO_OIHW)


def _from_oihw(tensor: np.ndarray) -> np.ndarray:
    return tensor.transpose(2, 3, 1, 0)


def _from_oi(tensor: np.ndarray) -> np.ndarray:
    return tensor.reshape(tensor.shape[:2]).T
