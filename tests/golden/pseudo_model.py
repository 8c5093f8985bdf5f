"""The elementwise network that every golden number of the diffusion was made with.

It predicts eps exactly for data N(0, 0.5^2), plus a bounded disturbance, at any step,
also between two. Layout NHWC. `numpy.random.RandomState` gives the noises back.
"""

import jax.numpy as jnp
import numpy as np


def noises() -> np.ndarray:
    """(1001, 2, 4, 4, 3): [0] is x_T, [1 + k] is for the k-th step down, float32."""
    drawn = np.random.RandomState(1234).standard_normal((1001, 2, 3, 4, 4))
    return np.moveaxis(drawn.astype(np.float32), 2, -1)


def images() -> np.ndarray:
    """(2, 4, 4, 3) of the 256 values of 8-bit images, 0 and 255 among them."""
    values = ((37 * np.arange(96)) % 256).reshape(2, 3, 4, 4)
    return np.moveaxis(values, 1, -1) / 127.5 - 1


def eps_model(betas, *, disturbance=0.05):
    """(x, t) -> eps for the training chain of these betas; t (batch,), any number."""
    log_table = np.cumsum(np.log1p(-np.asarray(betas, np.float64)))

    def eps(x, t):
        t = _column(t, x)
        steps = jnp.arange(len(log_table), dtype=x.dtype)
        log_a = jnp.interp(t, steps, jnp.asarray(log_table, x.dtype))
        a, s2 = jnp.exp(log_a), -jnp.expm1(log_a)
        exact = jnp.sqrt(s2) * x / (0.25 * a + s2)
        return exact + disturbance * jnp.sin(3 * x + 0.02 * t)

    return eps


def learned_model(betas):
    """(x, t) -> [eps, v] on the last axis; v leaves [-1, 1] on purpose."""
    eps = eps_model(betas)

    def both(x, t):
        v = 1.2 * jnp.cos(2 * x + 0.03 * _column(t, x))
        return jnp.concatenate([eps(x, t), v], axis=-1)

    return both


def class_model(betas):
    """(x, t, label) -> eps; label -1 is none."""
    eps = eps_model(betas)

    def conditional(x, t, label):
        y = _column(label, x)
        return eps(x, t) + jnp.where(y >= 0, 0.1 * jnp.cos(x + y), 0.0)

    return conditional


def v_model(x, t):
    """(x, t) -> v, a function without meaning."""
    return 0.5 * jnp.sin(x) + 0.1 * jnp.cos(0.02 * _column(t, x))


def _column(t, x):
    t = jnp.asarray(t, x.dtype)
    return t.reshape(t.shape + (1,) * (x.ndim - t.ndim))
