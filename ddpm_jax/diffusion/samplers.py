"""The samplers, and the loop that runs them, under one name."""

from ddpm_jax.diffusion.ancestral import ddpm as ddpm
from ddpm_jax.diffusion.ancestral import ddpm_update as ddpm_update
from ddpm_jax.diffusion.ddim import ddim as ddim
from ddpm_jax.diffusion.ddim import ddim_invert as ddim_invert
from ddpm_jax.diffusion.ddim import ddim_update as ddim_update
from ddpm_jax.diffusion.dpm_solver import dpm_solver_pp as dpm_solver_pp
from ddpm_jax.diffusion.dpm_solver import dpm_solver_pp_update as dpm_solver_pp_update
from ddpm_jax.diffusion.heun import heun as heun
from ddpm_jax.diffusion.heun import heun_update as heun_update
from ddpm_jax.diffusion.sampling import sample as sample
from ddpm_jax.diffusion.sampling import sample_iter as sample_iter
from ddpm_jax.diffusion.stepping import Sampler as Sampler
from ddpm_jax.diffusion.stepping import StepInfo as StepInfo
from ddpm_jax.diffusion.unipc import unipc as unipc
from ddpm_jax.diffusion.unipc import unipc_correct as unipc_correct
