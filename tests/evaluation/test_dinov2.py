"""DINOv2 against a plain vision transformer in PyTorch with the same state dict."""

import math

import numpy as np
import pytest

from ddpm_jax.evaluation import dinov2
from ddpm_jax.evaluation.features import collect, extract

TINY = dinov2.DinoV2(
    features=24, depth=2, heads=3, patch=4, size=20, grid=9, mlp_ratio=4
)


def state_dict(vit):
    rng = np.random.default_rng(5)
    made = {}
    for key, shape in vit.shapes().items():
        z = rng.standard_normal(shape).astype(np.float32)
        is_gain = key.endswith(("norm1.weight", "norm2.weight", "norm.weight", "gamma"))
        made[key] = 1 + 0.1 * z if is_gain else 0.3 * z
    return made


def reference(torch, vit, tensors, images):
    """DINOv2's forward pass of uint8 images, in float64."""
    f, w = torch.nn.functional, {k: torch.from_numpy(x) for k, x in tensors.items()}
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32))
    x = f.interpolate(x, (vit.size, vit.size), mode="bicubic", antialias=True)
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (dinov2.MEAN, dinov2.STD))
    x, w = ((x / 255 - mean) / std).double(), {k: v.double() for k, v in w.items()}
    patches, bias = w["patch_embed.proj.weight"], w["patch_embed.proj.bias"]
    x = f.conv2d(x, patches, bias, stride=vit.patch).flatten(2).transpose(1, 2)
    n, count, width = x.shape
    side, grid = math.isqrt(count), vit.grid
    old = w["pos_embed"][:, 1:].reshape(1, grid, grid, width).permute(0, 3, 1, 2)
    factor = (side + 0.1) / grid
    new = f.interpolate(old.float(), scale_factor=(factor, factor), mode="bicubic")
    new = new.permute(0, 2, 3, 1).reshape(1, count, width).double()
    x = torch.cat([w["cls_token"].expand(n, -1, -1), x], dim=1)
    x = x + torch.cat([w["pos_embed"][:, :1], new], dim=1)

    def norm(x, name):
        return f.layer_norm(x, (width,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    def product(x, name):
        return f.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    for i in range(vit.depth):
        b = f"blocks.{i}"
        qkv = product(norm(x, f"{b}.norm1"), f"{b}.attn.qkv")
        qkv = qkv.reshape(n, count + 1, 3, vit.heads, width // vit.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
        mixed = (attention @ v).transpose(1, 2).reshape(n, count + 1, width)
        x = x + w[f"{b}.ls1.gamma"] * product(mixed, f"{b}.attn.proj")
        hidden = f.gelu(product(norm(x, f"{b}.norm2"), f"{b}.mlp.fc1"))
        x = x + w[f"{b}.ls2.gamma"] * product(hidden, f"{b}.mlp.fc2")
    return norm(x, "norm")[:, 0].numpy()


@pytest.mark.parametrize("size", [20, 32, 13])
def test_features_are_the_references(size):
    torch = pytest.importorskip("torch")
    tensors = state_dict(TINY)
    images = np.random.default_rng(1).integers(0, 256, (3, size, size, 3))
    images = images.astype(np.uint8)
    found = collect(extract(dinov2.network(tensors, TINY), images))
    expected = reference(torch, TINY, tensors, images)
    np.testing.assert_allclose(found["dinov2"], expected, rtol=1e-4, atol=1e-4)


def test_positions_of_vit_l_14_are_resized_as_its_code_does():
    torch = pytest.importorskip("torch")
    z = np.random.default_rng(2).standard_normal((1, 1 + 37**2, 6)).astype(np.float32)
    grid = torch.from_numpy(z[:, 1:]).reshape(1, 37, 37, 6).permute(0, 3, 1, 2)
    factor = 16.1 / 37
    expected = torch.nn.functional.interpolate(
        grid, scale_factor=(factor, factor), mode="bicubic"
    )
    found = dinov2.positions(z, 37, 16)
    assert found.shape == (1, 257, 6)
    np.testing.assert_array_equal(found[:, 0], z[:, 0])
    expected = expected.permute(0, 2, 3, 1).reshape(1, 256, 6)
    np.testing.assert_allclose(found[:, 1:], expected, atol=1e-4)
    assert dinov2.positions(z, 37, 37) is z


def test_the_shapes_are_those_of_the_published_file():
    shapes = dinov2.DinoV2().shapes()
    assert len(shapes) == 24 * 14 + 6
    assert sum(math.prod(shape) for shape in shapes.values()) == 304_367_616
    assert shapes["pos_embed"] == (1, 1370, 1024)
    assert shapes["blocks.23.attn.qkv.weight"] == (3072, 1024)


def test_a_network_that_lacks_a_tensor_is_refused():
    tensors = state_dict(TINY)
    del tensors["blocks.1.ls2.gamma"]
    tensors["register_tokens"] = np.zeros((1, 4, 24))
    line = r"1 missing \(blocks.1.ls2.gamma\); 1 left over \(register_tokens\)"
    with pytest.raises(ValueError, match=line):
        dinov2.network(tensors, TINY)
