"""Protocols: what each fixes, and the names by which they are asked for."""

import dataclasses
import typing

import numpy as np
import pytest

from ddpm_jax.evaluation import __main__ as command
from ddpm_jax.evaluation.features import FeatureNetwork
from ddpm_jax.evaluation.image_sets import of_array
from ddpm_jax.evaluation.inception_score import chunked
from ddpm_jax.evaluation.measure import (
    METRICS,
    SHUFFLE,
    Measured,
    chosen,
    measure,
    observe,
)
from ddpm_jax.evaluation.neighbours import precision_recall
from ddpm_jax.evaluation.protocols import PROTOCOLS, usual


def test_the_command_line_has_the_names_of_the_table():
    assert set(typing.get_args(command.ProtocolName)) == set(PROTOCOLS)
    known = {name for metric in METRICS for name in metric.names}
    for protocol in PROTOCOLS.values():
        assert set(protocol.metrics) | set(protocol.extra) <= known
        assert not set(protocol.metrics) & set(protocol.extra)


def test_an_unknown_metric_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"a metric is one of fid, .*; got fidd"):
        chosen(["fid", "fidd"])


@pytest.mark.parametrize(
    ("name", "pixels"),
    # Of these x 127.5 x + 127.5 is 0, 63.75, 126.5, 127.5, 140.25, 254.87, 255
    [
        ("openai", [0, 63, 126, 127, 140, 254, 255]),
        ("ttur", [0, 64, 126, 128, 140, 255, 255]),
        ("pytorch-fid", [0, 64, 126, 128, 140, 255, 255]),
        ("clean-fid", [0, 64, 126, 128, 140, 255, 255]),
        ("edm", [0, 64, 127, 128, 140, 255, 255]),
        ("edm2-dinov2", [0, 64, 127, 128, 140, 255, 255]),
    ],
)
def test_floats_become_pixels_as_each_evaluator_makes_them(name, pixels):
    x = np.array([-1, -0.5, -1 / 127.5, 0, 0.1, 0.999, 1], np.float32)
    np.testing.assert_array_equal(PROTOCOLS[name].rounding(x), pixels)
    np.testing.assert_array_equal(
        PROTOCOLS[name].rounding(3 * np.sign(x))[[0, -1]], [0, 255]
    )


def test_small_and_grey_images_are_not_for_inception():
    assert usual((32, 32, 3)) == "openai"
    assert usual((8, 8, 1)) == usual((16, 16, 3)) == usual((64, 64, 1)) == "classifier"


def test_each_has_the_resize_and_the_logits_of_its_evaluator():
    facts = {name: protocol.facts() for name, protocol in PROTOCOLS.items()}
    assert {name: x["resize"] for name, x in facts.items() if x["resize"]} == {
        "openai": "tf1_bilinear",
        "ttur": "tf1_bilinear",
        "edm": "tf1_bilinear",
        "pytorch-fid": "torch_bilinear",
        "clean-fid": "pil_bicubic",
    }
    assert (
        facts["openai"]["inception score"] == "chunks of 5000, logits logits_unbiased"
    )
    assert facts["ttur"]["inception score"] == "10 shuffled splits, logits logits"
    assert {x["covariance normaliser"] for x in facts.values()} == {"n - 1"}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_no_protocol_makes_pixels_of_what_is_not_finite(name):
    with pytest.raises(FloatingPointError, match="must be finite"):
        PROTOCOLS[name].rounding(np.array([0.5, np.nan], np.float32))


def test_metrics_take_what_a_protocol_fixes():
    fixed = {"neighbours": 2, "references": 15, "chunks": 8}
    protocol = dataclasses.replace(PROTOCOLS["openai"], **fixed)
    a, b, logits = np.random.default_rng(0).normal(size=(3, 20, 4))
    taps = protocol.taps
    samples = {taps.pooled: a, taps.logits: logits}
    samples = Measured(num=20, gaussians={}, features=samples)
    real = Measured(num=20, gaussians={}, features={taps.pooled: b})
    found, _ = measure(samples, real, protocol, ("precision", "recall", "is"))
    some = b[np.random.default_rng(SHUFFLE).permutation(20)[:15]]
    expected = precision_recall(a, some, neighbours=2)
    assert (found["precision"].value, found["recall"].value) == expected
    assert found["is"].value == chunked(logits, 8)
    real = dataclasses.replace(real, chosen=True)  # of a file: none is left out
    found, _ = measure(samples, real, protocol, ("precision", "recall"))
    expected = precision_recall(a, b, neighbours=2)
    assert (found["precision"].value, found["recall"].value) == expected


def test_the_inception_score_does_not_heed_the_order_of_classes():
    logits = 50 * np.eye(10).repeat(20, axis=0)  # a split in this order has one class
    samples = Measured(num=200, gaussians={}, features={"logits": logits})
    real = Measured(num=200, gaussians={}, features={})
    found, _ = measure(samples, real, PROTOCOLS["ttur"], ("is",))
    assert found["is"].value > 5


def test_grey_images_have_three_channels_where_the_evaluator_makes_them_so():
    def corners(images):
        return {"2048": images[:, 0, 0], "logits": images[:, 1, 1]}

    network = FeatureNetwork.from_function("corners", corners, channels=3)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 1), np.uint8)
    images = of_array(pixels, "grey", {})
    found = observe(network, images, PROTOCOLS["edm"], ("fid",), reference=True)
    mean = np.broadcast_to(pixels[:, 0, 0].mean(), 3)
    np.testing.assert_allclose(found.gaussians["2048"].mean, mean, rtol=1e-6)
    with pytest.raises(ValueError, match="corners takes images of 3"):
        observe(network, images, PROTOCOLS["ttur"], ("fid",), reference=True)
