"""The mathematics: pure functions that need jax and numpy alone.

`schedules` and `transitions` are the forward and the reverse process, `denoiser` is how
a network's output is read, `losses` and `likelihood` the bound on the likelihood,
`samplers`, `guidance` and `editing` the ways to draw. Any callable (x, t) -> output is
a network to them. The folder imports nothing outside itself and can be copied.
"""

from . import denoiser as denoiser
from . import editing as editing
from . import gaussians as gaussians
from . import guidance as guidance
from . import importance as importance
from . import likelihood as likelihood
from . import losses as losses
from . import parametrisations as parametrisations
from . import samplers as samplers
from . import schedules as schedules
from . import solver_spacing as solver_spacing
from . import transitions as transitions
from . import variances as variances
