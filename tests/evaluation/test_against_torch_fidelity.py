"""Features and resize against torch-fidelity's own, in one process."""

import numpy as np
import pytest

from ddpm_jax.evaluation.features import collect, extract
from ddpm_jax.evaluation.resize import tf1_bilinear

TAPS = ("64", "192", "768", "2048", "logits_unbiased", "logits")


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(4).integers(0, 256, (3, 40, 57, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def theirs(torch_fidelity, made_weights, images, tmp_path_factory):
    """Their features by tap, and what our spatial ones are in their network."""
    import torch

    path = tmp_path_factory.mktemp("weights") / "made.pth"
    torch.save({k: torch.from_numpy(x) for k, x in made_weights.items()}, path)
    network = torch_fidelity.FeatureExtractorInceptionV3(
        "inception-v3-compat", list(TAPS), feature_extractor_weights_path=str(path)
    )
    spatial = []
    network.Mixed_6d.branch1x1.register_forward_hook(
        lambda module, given, found: spatial.append(found[:, :7].permute(0, 2, 3, 1))
    )
    with torch.no_grad():
        planes = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        features = network(planes)
    found = {tap: x.numpy() for tap, x in zip(TAPS, features, strict=True)}
    return found | {"spatial": spatial[0].reshape(3, -1).numpy()}


@pytest.fixture(scope="module")
def ours(made_inception, images):
    return collect(extract(made_inception, images, batch_size=8))


@pytest.mark.parametrize("tap", [*TAPS, "spatial"])
def test_features_are_theirs(ours, theirs, tap):
    largest = np.abs(theirs[tap]).max(axis=1, keepdims=True)
    assert ours[tap].shape == theirs[tap].shape
    np.testing.assert_array_less(np.abs(ours[tap] - theirs[tap]) / largest, 1e-4)


@pytest.mark.parametrize("size", [(32, 32), (48, 31), (512, 400), (299, 299)])
def test_the_resize_is_theirs(torch_fidelity, size):
    import torch
    from torch_fidelity.interpolate_compat_tensorflow import (
        interpolate_bilinear_2d_like_tensorflow1x as resize,
    )

    x = (255 * np.random.default_rng(0).integers(0, 2, (2, *size, 3))).astype(np.uint8)
    planes = torch.from_numpy(x.transpose(0, 3, 1, 2).astype(np.float32))
    expected = resize(planes, size=(299, 299), align_corners=False)
    found = np.asarray(tf1_bilinear(x, (299, 299)))
    np.testing.assert_allclose(found.transpose(0, 3, 1, 2), expected.numpy(), atol=1e-3)
