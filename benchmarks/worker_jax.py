"""This package's train step and sampler step, for `against_pytorch.py`."""

import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
from measure import environment
from train_step import Run
from workers import milliseconds, serve, warm

from ddpm_jax import build
from ddpm_jax.config import Config
from ddpm_jax.diffusion import samplers
from ddpm_jax.interop.save import save_diffusers


class Side:
    """One configuration, its weights, and what was prepared of it."""

    def __init__(self) -> None:
        self.calls: dict = {}
        self.once: dict[str, float] = {}

    def open(
        self, config: str, dtype: str, batch_size: int, steps: int, folder: str
    ) -> dict:
        """Draws weights, exports them, and writes what one call and one walk give."""
        read: Config = runpy.run_path(config)["get_config"]()
        self.config, self.dtype, self.size = read, dtype, batch_size
        self.unet = build.make_network(read).clone(dtype=jnp.dtype(dtype))
        init = jax.jit(lambda key: build.init_params(key, self.unet, read.data))
        self.params = spread_out(init(jax.random.key(0)))
        self.schedule = build.make_schedule(read.diffusion.schedule, steps=steps)
        place = pathlib.Path(folder)
        save_diffusers(place / "model", read, self.params)
        np.savez(place / "expected.npz", **self._expected())
        count = sum(x.size for x in jax.tree.leaves(self.params))
        return {"environment": environment(), "parameters": count}

    def _expected(self) -> dict[str, np.ndarray]:
        data, rng = self.config.data, np.random.default_rng(0)
        shape = (self.size, data.image_size, data.image_size, data.channels)
        self.x = jnp.asarray(rng.standard_normal(shape, np.float32))
        t = rng.integers(0, self.config.diffusion.schedule.num_steps, self.size)
        self.label = None
        known = {}
        if data.num_classes is not None:
            self.label = jnp.arange(self.size, dtype=jnp.int32) % data.num_classes
            known["label"] = np.asarray(self.label)
        network = build.bound_network(self.unet, self.params, self.label)
        call = jax.jit(lambda network, x, t: network(x, t))
        tables = ("alphas_cumprod", "alphas_cumprod_prev", "timesteps")
        walk = {name: np.asarray(getattr(self.schedule, name)) for name in tables}
        whole = build.make_schedule(self.config.diffusion.schedule)
        return {
            **known,
            **walk,
            "trained_on": np.asarray(whole.alphas_cumprod),
            "x": np.asarray(self.x),
            "t": t,
            "output": np.asarray(call(network, self.x, jnp.asarray(t, jnp.int32))),
            "sample": np.asarray(self._sample()),
        }

    def _sample(self) -> jax.Array:
        network = build.bound_network(self.unet, self.params, self.label)
        return samplers.sample(
            jax.random.key(1),
            build.make_denoiser(self.config.diffusion, network),
            self.schedule,
            self.x.shape,
            sampler=samplers.ddim(),
            x_init=self.x,
        )

    def prepare(self, step: str) -> dict:
        """Compiles the step."""
        if step == "train":
            run = Run(self.config, self.dtype, self.size)
            copy = lambda: jax.tree.map(jnp.array, self.params)  # noqa: E731
            run.state = run.state.replace(params=copy(), ema_params=copy())
            self.calls[step] = run
        else:
            self.calls[step] = self._sample
        told = warm(self.calls[step], jax.block_until_ready)
        if step == "train":
            told["first_s"] += run.compile_seconds
        self.once[step] = told["once_ms"]
        return {"first_s": told["first_s"]}

    def turn(self, step: str, seconds: float) -> dict:
        """Milliseconds of one step."""
        ms = milliseconds(
            self.calls[step], jax.block_until_ready, seconds, self.once[step]
        )
        return {"ms": ms / (1 if step == "train" else self.schedule.num_steps)}


def spread_out(params):
    """Weights with every kernel of ordinary size, so that no branch is silent.

    As they are drawn, those that end a branch are about 1e-10.
    """
    rng = np.random.default_rng(0)

    def drawn(x):
        if x.ndim < 2 or jnp.std(x) > 1e-4:
            return x
        scale = np.sqrt(np.prod(x.shape[:-1]))
        return jnp.asarray(rng.standard_normal(x.shape, np.float32) / scale)

    return jax.tree.map(drawn, params)


if __name__ == "__main__":
    side = Side()
    serve({"open": side.open, "prepare": side.prepare, "turn": side.turn})
