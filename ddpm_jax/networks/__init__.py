"""Networks in Flax Linen; they know nothing of diffusion."""

from ddpm_jax.networks.base import Network as Network
from ddpm_jax.networks.embeddings import time_embedding as time_embedding
from ddpm_jax.networks.unet import UNet as UNet
