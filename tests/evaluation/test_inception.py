"""The FID Inception against torch-fidelity's numbers, on one device and on eight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.evaluation import inception
from ddpm_jax.evaluation.features import collect, extract


def close(found, expected, tolerance=1e-4):
    """Within the tolerance of the largest of the same image's features."""
    largest = np.abs(expected).max(axis=1, keepdims=True)
    np.testing.assert_array_less(np.abs(found - expected) / largest, tolerance)


@pytest.fixture(scope="module")
def found(made_inception, golden):
    """Of four images on eight devices; of one on one device."""
    one = jax.local_devices()[:1]
    return {
        "noise32": collect(extract(made_inception, golden["noise32/images"])),
        "ramp48": collect(
            extract(made_inception, golden["ramp48/images"], devices=one)
        ),
    }


@pytest.mark.parametrize("name", ["noise32", "ramp48"])
@pytest.mark.parametrize("tap", inception.TAPS)
def test_features_are_the_references(found, golden, name, tap):
    assert found[name][tap].dtype == np.float32
    close(found[name][tap], golden[f"{name}/{tap}"])


def test_unbiased_logits_lack_the_bias_alone(found, made_weights):
    bias = found["noise32"]["logits"] - found["noise32"]["logits_unbiased"]
    np.testing.assert_allclose(
        bias, np.tile(made_weights["fc.bias"], (4, 1)), atol=1e-4
    )


def test_the_spatial_features_are_seven_channels_of_mixed_6(found):
    spatial = found["noise32"]["spatial"]
    assert spatial.shape == (4, 17 * 17 * inception.SPATIAL)
    assert (spatial >= 0).all()  # after the ReLU
    assert (spatial == 0).mean() > 0.05


def test_one_device_computes_what_eight_do(found, made_inception, golden):
    one = jax.local_devices()[:1]
    # The program of the other image, which is of another size, is not run again.
    x = golden["noise32/images"][:1]
    alone = collect(extract(made_inception, x, taps=["2048"], devices=one))
    assert list(alone) == ["2048"]
    close(alone["2048"], found["noise32"]["2048"][:1], 1e-5)


def test_an_unknown_resize_is_one_line(made_weights):
    line = "resize must be one of tf1_bilinear, torch_bilinear, pil_bicubic; got 'x'"
    with pytest.raises(ValueError, match=line):
        inception.network(made_weights, resize="x")


@pytest.mark.parametrize(
    ("resize", "centre"), [("torch_bilinear", 127.5), ("pil_bicubic", 128.0)]
)
def test_images_of_its_own_size_are_only_scaled(monkeypatch, resize, centre):
    """Of 299x299 every resize is the identity: what is left is the scale."""
    seen = []

    def network(self, variables, x):
        seen.append(x)
        return {"2048": x.mean((1, 2))}

    monkeypatch.setattr(inception.Inception, "apply", network)
    features = inception._Features(inception._INPUTS[resize])
    x = np.random.default_rng(0).integers(0, 256, (1, 299, 299, 3)).astype(np.uint8)
    features({}, jnp.asarray(x))
    np.testing.assert_allclose(seen[0], (x - centre) / centre, atol=2e-6)
