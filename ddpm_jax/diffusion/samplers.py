"""The samplers, and the loop that runs them, under one name."""

from ddpm_jax.diffusion.ancestral import ddpm as ddpm
from ddpm_jax.diffusion.ancestral import ddpm_update as ddpm_update
from ddpm_jax.diffusion.sampling import sample as sample
from ddpm_jax.diffusion.sampling import sample_iter as sample_iter
from ddpm_jax.diffusion.stepping import Sampler as Sampler
from ddpm_jax.diffusion.stepping import StepInfo as StepInfo
