"""Protocols: what each fixes, and the names by which they are asked for."""

import typing

import numpy as np
import pytest

from ddpm_jax.evaluation import __main__ as command
from ddpm_jax.evaluation.measure import METRICS, chosen
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
    # Of -1, -0.5, 0, 0.1, 0.999, 1: 127.5 x + 127.5 is 0, 63.75, 127.5, 140.25, 254.87
    [
        ("openai", [0, 63, 127, 140, 254, 255]),
        ("ttur", [0, 64, 128, 140, 255, 255]),
        ("edm", [0, 64, 128, 140, 255, 255]),
    ],
)
def test_floats_become_pixels_as_each_evaluator_makes_them(name, pixels):
    x = np.array([-1, -0.5, 0, 0.1, 0.999, 1], np.float32)
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
