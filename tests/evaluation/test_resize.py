"""Each resize is that of the code it is named after."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ddpm_jax.evaluation import resize

SIZES = [((32, 32), (299, 299)), ((48, 31), (224, 299)), ((512, 400), (299, 224))]


def images(shape, channels=3):
    """Of black and white pixels, beyond which a bicubic overshoots."""
    noise = np.random.default_rng(0).integers(0, 2, (2, *shape, channels))
    return (255 * noise).astype(np.uint8)


@pytest.mark.parametrize("name", ["noise32", "ramp48"])
def test_tensorflow_1s_bilinear_is_that_of_the_reference(golden, name):
    found = jax.jit(resize.tf1_bilinear, static_argnums=1)(
        golden[f"{name}/images"], (299, 299)
    )
    assert found.dtype == jnp.float32
    expected = golden[f"{name}/resized_sample"]
    np.testing.assert_allclose(found[:, ::23, ::23], expected, atol=1e-3)


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_bicubic_is_pillows_on_floats_and_cut(old, new):
    x = images(old)
    expected = np.empty((2, *new, 3), np.float32)
    for i, channel in np.ndindex(2, 3):
        plane = Image.fromarray(x[i, :, :, channel].astype(np.float32))
        assert plane.mode == "F"
        plane = plane.resize(new[::-1], Image.Resampling.BICUBIC)
        expected[i, :, :, channel] = np.asarray(plane)
    assert expected.min() < -1 and expected.max() > 256
    found = jax.jit(resize.pil_bicubic, static_argnums=1)(x, new)
    np.testing.assert_allclose(found, expected.clip(0, 255), atol=1e-3)


@pytest.mark.parametrize(("old", "new"), SIZES)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("torch_bilinear", {"mode": "bilinear", "align_corners": False}),
        ("torch_bicubic", {"mode": "bicubic", "antialias": True}),
    ],
)
def test_what_is_named_after_pytorch_is_pytorchs(name, options, old, new):
    torch = pytest.importorskip("torch")
    x = images(old)
    planes = torch.from_numpy(x.transpose(0, 3, 1, 2).astype(np.float32))
    expected = torch.nn.functional.interpolate(planes, size=new, **options)
    found = getattr(resize, name)(x, new)
    np.testing.assert_allclose(found, expected.numpy().transpose(0, 2, 3, 1), atol=1e-3)


@pytest.mark.parametrize(
    "rule", [resize.tf1_bilinear, resize.torch_bilinear, resize.pil_bicubic]
)
def test_laws_of_every_resize(rule):
    """A constant stays, channels are apart, and the same size changes nothing."""
    flat = np.full((1, 20, 30, 1), 77, np.uint8)
    np.testing.assert_allclose(rule(flat, (45, 7)), 77.0, rtol=1e-6)
    x = images((24, 40), channels=4)
    apart = [rule(x[..., i : i + 1], (30, 30)) for i in range(4)]
    np.testing.assert_allclose(
        rule(x, (30, 30)), np.concatenate(apart, axis=-1), atol=1e-4
    )
    np.testing.assert_allclose(rule(x, (24, 40)), x, atol=1e-4)


def test_where_pixels_lie_is_what_tells_bilinear_rules_apart():
    """On a ramp: pixel i is at i h / H (TF1), or at (i + 1/2) h / H - 1/2 (PyTorch)."""
    ramp = np.arange(100, dtype=np.uint8)[None, :, None, None].repeat(3, axis=2)
    i = np.arange(299)
    inner = slice(3, 295)
    np.testing.assert_allclose(
        resize.tf1_bilinear(ramp, (299, 3))[0, inner, 1, 0],
        (i * 100 / 299)[inner],
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        resize.torch_bilinear(ramp, (299, 3))[0, inner, 1, 0],
        ((i + 0.5) * 100 / 299 - 0.5)[inner],
        rtol=1e-4,
    )
