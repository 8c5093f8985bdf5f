"""An exported file draws the model's images, wherever jax runs, without its code."""

import dataclasses
import os
import subprocess
import sys

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddpm_jax
from ddpm_jax import build, export
from ddpm_jax.config import (
    Config,
    DataConfig,
    DiffusionConfig,
    NetworkConfig,
    ScheduleConfig,
)
from ddpm_jax.diffusion.samplers import ddim, unipc
from ddpm_jax.export import export_sampler
from ddpm_jax.model import Model
from ddpm_jax.networks.convolutions import DIRECT, WINOGRAD

SCHEDULE = ScheduleConfig(kind="linear", num_steps=8, end=0.4)


def make_model(
    num_classes=None, dtype="float32", channels=1, multipliers=(1,), **diffusion
):
    """A tiny network with random weights, not those that start it: they predict 0."""
    config = Config(
        data=DataConfig(
            source="folder",
            path="/home/somebody/photos",
            num_classes=num_classes,
            channels=channels,
        ),
        network=NetworkConfig(
            channels=8,
            multipliers=multipliers,
            num_blocks=1,
            attention_resolutions=(),
            num_groups=4,
            dtype=dtype,
        ),
        diffusion=DiffusionConfig(schedule=SCHEDULE, **diffusion),
    )
    network = build.make_network(config)
    init = jax.jit(lambda key: build.init_params(key, network, config.data))
    leaves, tree = jax.tree.flatten(jax.eval_shape(init, jax.random.key(0)))
    rng = np.random.default_rng(0)
    params = [jnp.asarray(rng.normal(0, 0.2, x.shape), jnp.float32) for x in leaves]
    return Model(
        params=tree.unflatten(params),
        schedule=build.make_schedule(config.diffusion.schedule),
        config=config,
        network=network,
        step=0,
    )


def read(path):
    return jax.export.deserialize(bytearray(path.read_bytes()))


@pytest.fixture(scope="module")
def guided():
    return make_model(num_classes=10, multipliers=(1, 2), label_dropout=0.1)


@pytest.fixture(scope="module")
def guided_file(guided, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "sampler.jax"
    export_sampler(guided, path)
    return path


@pytest.fixture(scope="module")
def draw(guided_file):
    return jax.jit(read(guided_file).call)


LABELS = jnp.array([3, 1, 4, 1, 5])


@pytest.mark.parametrize(("seed", "scale"), [(0, 0.0), (7, 3.0), (2**31 - 1, 1.0)])
def test_one_file_draws_the_models_images_in_any_number(guided, draw, seed, scale):
    key = jax.random.key(seed)
    expected = guided.sample(key, 5, label=LABELS, guidance=scale)
    for index in (jnp.arange(5), jnp.array([4, 0])):
        label = LABELS[index]
        images = draw(seed=seed, index=index, label=label, guidance=scale)
        assert images.dtype == np.float32
        np.testing.assert_allclose(images, expected[index], atol=1e-5)
    assert draw._cache_size() == 2  # one program for each number of images


def test_no_folder_of_this_machine_is_told(guided_file):
    told = guided_file.read_bytes()
    assert b"unet.py" in told  # where a program came from is
    for place in (ddpm_jax.__file__, flax.__file__):
        assert os.path.dirname(os.path.dirname(place)).encode() not in told
    assert b"somebody" not in told and b"photos" not in told
    option = "jax_hlo_source_file_canonicalization_regex"
    assert jax.config.values[option] is None


def test_the_label_after_the_last_means_none(guided, draw):
    none = draw(seed=1, index=jnp.arange(5), label=jnp.full(5, 10), guidance=1.0)
    expected = guided.sample(jax.random.key(1), 5, label=LABELS, guidance=0.0)
    np.testing.assert_allclose(none, expected, atol=1e-5)
    wrong = draw(seed=1, index=jnp.arange(5), label=jnp.full(5, 11), guidance=4.0)
    assert np.isnan(wrong).all()


@pytest.mark.processes
def test_it_runs_where_there_is_jax_alone(guided, guided_file, tmp_path):
    expected = guided.sample(jax.random.key(5), 5, label=LABELS, guidance=2.0)
    np.save(tmp_path / "expected.npy", expected)
    code = """
import sys

class Absent:
    names = {"ddpm_jax", "flax", "optax", "orbax", "tensorflow_datasets"}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Absent())
import pathlib
import jax
import jax.export
import jax.numpy as jnp
import numpy as np

file, expected = map(pathlib.Path, sys.argv[1:])
draw = jax.jit(jax.export.deserialize(bytearray(file.read_bytes())).call)
images = draw(
    seed=5, index=jnp.arange(5), label=jnp.array([3, 1, 4, 1, 5]), guidance=2.0
)
np.testing.assert_allclose(images, np.load(expected), atol=1e-5)
assert not Absent.names & set(sys.modules)
print("the same images")
"""
    files = [str(guided_file), str(tmp_path / "expected.npy")]
    done = subprocess.run(
        [sys.executable, "-c", code, *files], capture_output=True, text=True
    )
    assert done.stdout == "the same images\n", done.stderr


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ({"dtype": "bfloat16", "predict": "v"}, {"sampler": ddim(eta=0.5)}),
        ({}, {"sampler": unipc(), "steps": 4, "spacing": "karras", "lambda_min": 0.2}),
    ],
    ids=["bfloat16, ddim", "unipc"],
)
def test_models_without_labels(model, options, tmp_path):
    model = make_model(**model)
    export_sampler(model, tmp_path / "sampler.jax", platforms=["cpu"], **options)
    images = jax.jit(read(tmp_path / "sampler.jax").call)(seed=2, index=jnp.arange(3))
    expected = model.sample(jax.random.key(2), 3, **options)
    np.testing.assert_allclose(images, expected, atol=1e-5)


def test_without_label_dropout_there_is_no_guidance(tmp_path):
    model = make_model(
        num_classes=4, channels=3, variance="learned_range", loss="hybrid"
    )
    export_sampler(model, tmp_path / "sampler.jax", steps=2)
    exported = read(tmp_path / "sampler.jax")
    label = jnp.array([0, 3])
    images = jax.jit(exported.call)(seed=0, index=jnp.arange(2), label=label)
    expected = model.sample(jax.random.key(0), 2, steps=2, label=label)
    np.testing.assert_allclose(images, expected, atol=1e-5)
    with pytest.raises(ValueError, match="guidance"):
        exported.call(seed=0, index=jnp.arange(2), label=label, guidance=2.0)


def test_a_model_on_many_devices_becomes_a_file_for_one(guided, tmp_path):
    mesh = jax.make_mesh((8,), ("b",), axis_types=(jax.sharding.AxisType.Auto,))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    spread = jax.device_put(guided, everywhere)
    export_sampler(spread, tmp_path / "sampler.jax", steps=2)
    assert read(tmp_path / "sampler.jax").nr_devices == 1


def test_a_refused_export_leaves_the_old_file(tmp_path):
    path = tmp_path / "sampler.jax"
    path.write_text("old")
    model = make_model()
    without_signal = build.make_schedule(
        dataclasses.replace(SCHEDULE, zero_terminal_snr=True)
    )
    with pytest.raises(ValueError, match="zero terminal SNR"):
        export_sampler(dataclasses.replace(model, schedule=without_signal), path)
    with pytest.raises(ValueError, match="got 9"):
        export_sampler(model, path, steps=9)
    with pytest.raises(ValueError, match="platforms must be some of"):
        export_sampler(model, path, platforms=["gpu"])
    with pytest.raises(FileNotFoundError, match="no folder"):
        export_sampler(model, tmp_path / "absent" / "sampler.jax")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_weights_too_large_for_a_file_are_refused_at_once(tmp_path, monkeypatch):
    model = make_model()
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(model.params))
    monkeypatch.setattr(export, "MOST_BYTES", held - 1)
    monkeypatch.delattr(jax.export, "export")  # before anything is traced
    with pytest.raises(ValueError, match=f"at most .*got {held:,}"):
        export_sampler(model, tmp_path / "sampler.jax")
    assert not list(tmp_path.iterdir())


def test_without_flatbuffers_it_says_what_to_install(guided, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(ImportError, match=r"pip install 'ddpm_jax\[export\]'"):
        export_sampler(guided, tmp_path / "sampler.jax")
    assert not list(tmp_path.iterdir())


def test_a_file_has_no_convolutions_of_this_machine_alone(tmp_path, monkeypatch):
    """What is fastest on one CPU here would not be on the GPU that reads it."""
    model = make_model()
    network = model.network.clone(convolutions=WINOGRAD)
    exported = []
    monkeypatch.setattr(
        "ddpm_jax.model.export_sampler", lambda model, *_, **__: exported.append(model)
    )
    dataclasses.replace(model, network=network).export(tmp_path / "file")
    assert exported[0].network == model.network.clone(convolutions=DIRECT)
