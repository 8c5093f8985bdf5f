"""The samplers, one file each, and the loop that runs them, under one name."""

from .base import Sampler as Sampler
from .base import StepInfo as StepInfo
from .base import check_sampler as check_sampler
from .ddim import ddim as ddim
from .ddim import ddim_invert as ddim_invert
from .ddim import ddim_update as ddim_update
from .ddpm import ddpm as ddpm
from .ddpm import ddpm_update as ddpm_update
from .dpm_solver import dpm_solver_pp as dpm_solver_pp
from .dpm_solver import dpm_solver_pp_update as dpm_solver_pp_update
from .heun import heun as heun
from .heun import heun_update as heun_update
from .loop import sample as sample
from .loop import sample_iter as sample_iter
from .unipc import unipc as unipc
from .unipc import unipc_correct as unipc_correct
