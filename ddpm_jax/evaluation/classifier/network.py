"""A small classifier of a data set's own labels, whose features stand for Inception's.

Inception knows photographs of 299 pixels; of digits of 8 pixels it says nothing. A
network that was trained to tell a set's own classes apart does, and it needs no
download. What is measured in its features is named after it: a Frechet distance on
digits is "digits-FD", never "FID". `python -m` this trains one.
"""

import hashlib
import json
import math
import pathlib
from importlib import resources
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ddpm_jax.config import DataConfig
from ddpm_jax.data import ImageArrays, to_float
from ddpm_jax.evaluation.features import FeatureNetwork
from ddpm_jax.evaluation.weights import cache
from ddpm_jax.files import named_errors, whole_file
from ddpm_jax.interop.npz_files import read_npz
from ddpm_jax.progress import Progress

FEATURES = 64  # taken before the last layer
SHIPPED = {"digits": "digits.npz"}  # beside this file
FACTS = "facts"  # the array of a file that holds its JSON


class Facts(NamedTuple):
    """What a classifier was trained on, and how well it tells classes apart."""

    data: str  # "digits", "fashion_mnist": what its metrics are named after
    shape: tuple[int, int, int]  # of one image
    classes: int
    accuracy: float  # on held-out images
    scale: float  # root mean square of its features over the training images


class Classifier(nn.Module):
    """Images to logits, by way of `FEATURES` features."""

    classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(n, h, w, c) in [-1, 1] -> (n, 64) features and (n, classes) logits."""
        x = nn.relu(nn.Conv(32, (3, 3))(x))
        for _ in range(max(1, math.ceil(math.log2(min(x.shape[1:3]) / 5)))):
            x = nn.relu(nn.Conv(64, (3, 3), strides=2)(x))
        features = nn.relu(nn.Dense(FEATURES)(x.reshape(len(x), -1)))
        return features, nn.Dense(self.classes)(features)


def train(
    key: jax.Array,
    data: ImageArrays,
    *,
    num_steps: int = 1000,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
) -> dict[str, Any]:
    """The parameters of a classifier of labelled images. Consumes `key`.

    Adam on random batches, by a rate that falls to 0 as a cosine.

    Args:
        key: one key, ().
        data: images (n, h, w, c) uint8, and labels.
        num_steps: updates.
        batch_size: images of an update.
        learning_rate: at the first update.

    Raises:
        ValueError: if the images have no labels.
    """
    network, known = Classifier(_classes(data)), np.asarray(data.labels)
    init_key, data_key = jax.random.split(key)
    rate = optax.cosine_decay_schedule(learning_rate, num_steps)
    optimizer = optax.adam(rate)
    params = jax.jit(network.init)(init_key, to_float(data.images[:1]))
    state = optimizer.init(params)

    def loss(params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        logits = network.apply(params, to_float(images))[1]
        each = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return each.mean()

    @jax.jit
    def update(params: Any, state: Any, images: jax.Array, labels: jax.Array):
        step, state = optimizer.update(jax.grad(loss)(params, images, labels), state)
        return optax.apply_updates(params, step), state

    progress = Progress(num_steps, "step", images_per_unit=batch_size, shown=True)
    draws = np.random.default_rng(np.asarray(jax.random.key_data(data_key)))
    for step in range(num_steps):
        index = draws.integers(0, data.num_examples, batch_size)
        params, state = update(params, state, data.images[index], known[index])
        progress.reach(step + 1)
    progress.close()
    return params


def _classes(data: ImageArrays) -> int:
    if data.labels is None or data.num_classes is None:
        raise ValueError(f"a classifier learns from labels; {data.name} has none")
    return data.num_classes


def judge(params: Any, data: ImageArrays) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, 64), as they are, and the class that each image is taken for.

    Args:
        params: of the classifier.
        data: images (n, h, w, c) uint8, and labels.

    Raises:
        ValueError: if the images have no labels.
    """
    apply = jax.jit(Classifier(_classes(data)).apply)
    batches = (data.images[i : i + 1000] for i in range(0, data.num_examples, 1000))
    found = [jax.device_get(apply(params, to_float(images))) for images in batches]
    features, logits = (np.concatenate(rows) for rows in zip(*found, strict=True))
    return features, logits.argmax(-1)


def save(path: pathlib.Path | str, params: Any, facts: Facts) -> None:
    """Writes a classifier as .npz: its arrays, and the facts as JSON among them."""
    arrays: dict[str, Any] = flax.traverse_util.flatten_dict(params, sep="/")
    text = json.dumps(facts._asdict(), sort_keys=True).encode()
    arrays[FACTS] = np.frombuffer(text, np.uint8)
    with whole_file(path) as file:
        np.savez(file, **arrays)


def load(path: pathlib.Path | str) -> tuple[FeatureNetwork, Facts]:
    """The feature network in a classifier's file, with what it was trained on.

    Raises:
        ValueError: if the file is no classifier's.
        OSError: if it cannot be read.
    """
    path = pathlib.Path(path)
    with named_errors(path):
        checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    tensors = {name: tensor.read() for name, tensor in read_npz(path).items()}
    try:
        facts = Facts(**json.loads(tensors.pop(FACTS).tobytes()))
        height, width, channels = facts.shape
        facts = facts._replace(shape=(height, width, channels))
        expected = jax.eval_shape(
            Classifier(facts.classes).init,
            jax.random.key(0),
            jax.ShapeDtypeStruct((1, *facts.shape), jnp.float32),
        )
        shapes = flax.traverse_util.flatten_dict(expected, sep="/")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is no classifier's file: it lacks {FACTS} or {error}"
        ) from error
    found = {name: array.shape for name, array in tensors.items()}
    if found != {name: leaf.shape for name, leaf in shapes.items()}:
        raise ValueError(f"{path} is no classifier's file: other arrays, {found}")
    params = flax.traverse_util.unflatten_dict(tensors, sep="/")
    return as_features(params, facts, checksum), facts


def as_features(params: Any, facts: Facts, checksum: str) -> FeatureNetwork:
    """The classifier as a feature network with the taps "features" and "logits".

    Features are divided by their root mean square over the training images, so that
    distances do not depend on how large a training happened to make them.
    """

    def apply(params: Any, images: jax.Array) -> dict[str, jax.Array]:
        if images.shape[1:] != facts.shape:
            raise ValueError(
                f"the classifier of {facts.data} takes images of "
                f"{_written(facts.shape)}; got {_written(images.shape[1:])}"
            )
        features, logits = Classifier(facts.classes).apply(params, to_float(images))
        return {"features": features / facts.scale, "logits": logits}

    return FeatureNetwork(
        params=params,
        apply=apply,
        name=f"the classifier of {facts.data}",
        taps=("features", "logits"),
        channels=facts.shape[-1],
        checksum=checksum,
        input="[-1, 1]",
    )


def _written(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def find(data: DataConfig) -> tuple[FeatureNetwork, Facts]:
    """The classifier of a data set: one that is shipped, or that was trained here.

    Raises:
        FileNotFoundError: if there is none yet; it says which command makes it.
        ValueError: if the file is no classifier's.
    """
    if (shipped := SHIPPED.get(data.source)) is not None:
        with resources.as_file(resources.files(__package__) / shipped) as path:
            return load(path)
    path = kept_at(data)
    if not path.exists():
        raise FileNotFoundError(
            f"there is no classifier of {data_name(data)} yet ({path}); make it once "
            f"with python -m ddpm_jax.evaluation.classifier {flags(data)}"
        )
    return load(path)


def kept_at(data: DataConfig) -> pathlib.Path:
    """Where the classifier of a data set lies that was trained here.

    Two folders have two, whatever they are called.
    """
    name = data_name(data)
    if data.source == "folder":
        where = str(pathlib.Path(data.path or "").expanduser().resolve())
        name += f"-{hashlib.sha256(where.encode()).hexdigest()[:8]}"
    return cache() / "classifiers" / f"{name}.npz"


def data_name(data: DataConfig) -> str:
    """What metrics in a classifier's features are named after."""
    if data.source in ("digits", "given"):
        return data.source
    return data.name or pathlib.Path(data.path or "").expanduser().resolve().name


def flags(data: DataConfig) -> str:
    """The options of a command that name the same labelled images."""
    names = ("source", "name", "path", "split", "test_split", "image_size", "channels")
    told = [
        f"--data.{name.replace('_', '-')} {getattr(data, name)}"
        for name in names
        if getattr(data, name) != getattr(DataConfig, name)
    ]
    told.append(f"--data.num-classes {data.num_classes or 'N'}")
    return " ".join([*told, *["--data.resize"] * data.resize])
