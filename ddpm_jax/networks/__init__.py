"""Networks in Flax Linen; they know nothing of diffusion."""

from ddpm_jax.networks.unet import UNet

__all__ = ["UNet"]
