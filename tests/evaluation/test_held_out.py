"""The loss of held-out images: a closed form, by hand, and on any layout."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import toy_config, toy_model

from ddpm_jax import build
from ddpm_jax.config import DataConfig
from ddpm_jax.data import ImageArrays, load_digits
from ddpm_jax.diffusion import losses
from ddpm_jax.evaluation import held_out
from ddpm_jax.evaluation.held_out import held_out_loss, levels_of, read_held_out
from ddpm_jax.model import Model

SIGMA, SHIFT = 0.3, 0.1


def images(num=9, size=4, labelled=True):
    rng = np.random.default_rng(0)
    labels = (np.arange(num) % 3).astype(np.int32) if labelled else None
    return ImageArrays(
        images=rng.integers(0, 256, (num, size, size, 1), np.uint8),
        labels=labels,
        label_names=("a", "b", "c") if labelled else (),
    )


@dataclasses.dataclass(frozen=True)
class Exact:
    """E[eps | x_t] of pixels from N(SHIFT, SIGMA^2), and nothing learned."""

    signal: tuple[float, ...]  # alphas_cumprod
    out_channels: int = 1
    null_label: bool = True

    def init(self, key, x, t, label=None):
        return {"params": {"none": jnp.zeros(())}}

    def apply(self, variables, x, t, label=None, train=False, rngs=None):
        bar = jnp.array(self.signal)[t][:, None, None, None]
        return jnp.sqrt(1 - bar) * (x - jnp.sqrt(bar) * SHIFT) / spread(bar)


def spread(bar):
    """The variance of x_t."""
    return bar * SIGMA**2 + 1 - bar


def test_gaussian_images_and_the_exact_network_give_the_closed_form():
    config = toy_config(classes=None, size=8, num_steps=20)
    schedule = build.make_schedule(config.diffusion.schedule)
    signal = np.asarray(schedule.alphas_cumprod, np.float64)
    network = Exact(tuple(signal.tolist()))
    model = Model(
        params={"none": jnp.zeros(())},
        schedule=schedule,
        config=config,
        network=network,
        step=7,
    )
    drawn = SHIFT + SIGMA * np.random.default_rng(1).standard_normal((600, 8, 8, 1))
    pixels = np.rint(np.clip(drawn, -1, 1) * 127.5 + 127.5).astype(np.uint8)
    t = levels_of(20, 5)
    found = held_out_loss(model, ImageArrays(images=pixels), t, batch_size=256)
    # E[(eps - E[eps | x_t])^2], the variance of eps that x_t leaves.
    expected = signal[t] * SIGMA**2 / spread(signal[t])
    np.testing.assert_allclose(found.loss, expected, rtol=0.02)
    assert (np.abs(found.loss - expected) < 4 * found.error).all()
    # Squared Gaussians have a relative variance of 2 a pixel.
    pixelwise = np.sqrt(2 / 64 / 600) * expected
    np.testing.assert_allclose(found.error, pixelwise, rtol=0.15)
    assert found.mean == pytest.approx(found.loss.mean(), rel=1e-9)


KINDS = [
    {"predict": "eps"},
    {"predict": "v", "weight": "min_snr"},
    {"predict": "x0", "classes": None},
    {"predict": "eps", "variance": "learned_range"},
    {"predict": "v", "variance": "learned", "loss": "vlb"},
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_it_is_the_loss_of_training_by_hand(kind):
    """Image by image and step by step, with noise that only these decide."""
    model = toy_model(**kind)
    diffusion, schedule = model.config.diffusion, model.schedule
    data, t = images(5), np.array([0, 2, 5])
    bar = np.asarray(schedule.alphas_cumprod, np.float64)
    by_hand = np.empty((5, 3))
    for i in range(5):
        x0 = data.images[i].astype(np.float32) / 127.5 - 1
        label = None if kind.get("classes", 3) is None else data.labels[i : i + 1]
        for k, step in enumerate(t):
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), i), step)
            noise = np.asarray(jax.random.normal(key, x0.shape))
            xt = np.sqrt(bar[step]) * x0 + np.sqrt(1 - bar[step]) * noise
            output = model.denoise(jnp.asarray(xt[None]), jnp.array([step]), label)
            how = {"predict": build.PREDICT[diffusion.predict]}
            example = (schedule, x0[None], xt[None], jnp.array([step]), noise[None])
            if diffusion.loss == "simple":
                if diffusion.weight == "min_snr":
                    how["weight"] = losses.min_snr(**how)
                value = losses.simple_loss(*example, output, **how)
            else:
                how["variance"] = build.VARIANCE[diffusion.variance]
                if diffusion.loss == "vlb":
                    value = 6 * losses.vlb_term(*example, output, **how)
                else:
                    value = losses.hybrid_loss(*example, output, **how)
            by_hand[i, k] = value[0]
    found = held_out_loss(model, data, t)
    np.testing.assert_allclose(found.loss, by_hand.mean(0), rtol=2e-4)
    error = by_hand.std(0, ddof=1) / np.sqrt(5)
    np.testing.assert_allclose(found.error, error, rtol=2e-3)
    assert found.mean == pytest.approx(by_hand.mean(), rel=2e-4)
    whole = by_hand.mean(1)
    assert found.mean_error == pytest.approx(whole.std(ddof=1) / np.sqrt(5), rel=2e-3)


def test_it_depends_neither_on_batches_nor_devices_nor_other_images():
    model, data, t = toy_model(), images(9), np.array([1, 4])
    whole = held_out.losses(model, data, t)
    assert whole.shape == (9, 2) and np.ptp(whole) > 0.1
    for size in (1, 5, 18):
        for count in (1, 8):
            devices = jax.local_devices()[:count]
            found = held_out.losses(model, data, t, batch_size=size, devices=devices)
            np.testing.assert_allclose(found, whole, rtol=1e-5)
    fewer = dataclasses.replace(data, images=data.images[:4], labels=data.labels[:4])
    found = held_out.losses(model, fewer, np.array([4]))
    np.testing.assert_allclose(found, whole[:4, 1:], rtol=1e-5)


def test_labels_and_weights_count_and_no_update_compiles_it_anew():
    model, data, t = toy_model(), images(), np.array([3])
    found = held_out.losses(model, data, t)
    programs = held_out._losses._cache_size()
    later = dataclasses.replace(
        model, step=50, params=jax.tree.map(lambda x: x + 0.1, model.params)
    )
    assert np.abs(held_out.losses(later, data, t) - found).min() > 1e-4
    assert held_out._losses._cache_size() == programs
    turned = dataclasses.replace(data, labels=(data.labels + 1) % 3)
    assert np.abs(held_out.losses(model, turned, t) - found).min() > 1e-4


@pytest.mark.parametrize(
    ("num_steps", "count", "expected"),
    [
        (1000, 10, [50, 150, 250, 350, 450, 550, 650, 750, 850, 950]),
        (6, 10, [0, 1, 2, 3, 4, 5]),
        (7, 1, [3]),
        (7, 3, [1, 3, 5]),
    ],
)
def test_levels_are_the_middles_of_equal_parts(num_steps, count, expected):
    np.testing.assert_array_equal(levels_of(num_steps, count), expected)


def test_one_image_has_no_standard_error():
    found = held_out_loss(toy_model(), images(1), np.array([3]))
    assert np.isfinite(found.mean) and np.isnan(found.mean_error)
    assert np.isnan(found.error).all()


def test_the_first_images_of_the_test_split_are_held_out():
    found, why = read_held_out(DataConfig(num_classes=10), 7)
    whole = load_digits("test")
    assert why == "" and found.name == "digits/test"
    np.testing.assert_array_equal(found.images, whole.images[:7])
    np.testing.assert_array_equal(found.labels, whole.labels[:7])
    assert len(read_held_out(DataConfig(), 512)[0]) == 299


def test_of_a_large_set_no_more_images_are_read(monkeypatch):
    whole, read = images(50), []

    class Source:
        name, label_names, image_shape = "set/test", whole.label_names, (4, 4, 1)

        def __len__(self):
            return 50

        def __getitem__(self, index):
            read.append(index)
            return whole[index]

    opened = []
    monkeypatch.setattr(build, "open_images", lambda *a: opened.append(a) or Source())
    config = DataConfig(source="tfds", name="set", test_split="dev", num_classes=3)
    found, _ = read_held_out(config, 6)
    assert opened == [(config, "dev")] and read == [0, 1, 2, 3, 4, 5]
    np.testing.assert_array_equal(found.images, whole.images[:6])
    np.testing.assert_array_equal(found.labels, whole.labels[:6])


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (DataConfig(source="folder", path="images"), "a folder has no test split"),
        (DataConfig(source="given"), "images that Python gives have no test split"),
        (DataConfig(test_split="train"), "data.test_split=train is what is trained on"),
        (DataConfig(test_split="dev"), "digits: split must be one of"),
    ],
)
def test_why_no_images_are_held_out(config, line):
    found, why = read_held_out(config, 7)
    assert found is None and line in why
