"""Chains even in log-SNR, or Karras et al.'s, also between the table's steps."""

import numpy as np
import pytest

from ddpm_jax.diffusion.schedules import (
    cosine_betas,
    linear_betas,
    make_schedule,
    zero_terminal_snr,
)
from ddpm_jax.diffusion.solver_spacing import (
    heun_positions,
    interpolated_schedule,
    karras_positions,
    karras_timesteps,
    log_snr_positions,
    log_snr_timesteps,
)

LINEAR, COSINE = linear_betas(1000), cosine_betas(1000)


def sigmas(betas, positions):
    schedule = interpolated_schedule(betas, positions)
    return np.asarray(schedule.sqrt_recipm1_alphas_cumprod, np.float64)


@pytest.mark.parametrize("betas", [LINEAR, COSINE])
def test_log_snr_is_even(betas):
    positions = log_snr_positions(betas, 12, lambda_min=-np.inf)
    np.testing.assert_allclose(positions[[0, -1]], [0, 999], atol=1e-9)
    steps = np.diff(np.log(sigmas(betas, positions)))
    np.testing.assert_allclose(steps, steps[0], rtol=1e-4)


@pytest.mark.parametrize("rho", [1.0, 7.0])
def test_karras_sigmas_are_even_in_their_root(rho):
    positions = karras_positions(LINEAR, 12, rho=rho, sigma_min=0.002, sigma_max=80)
    reached = sigmas(LINEAR, positions)
    # 0.002 lies below the chain's first sigma.
    np.testing.assert_allclose(reached[[0, -1]], [0.0100005, 80], rtol=1e-5)
    steps = np.diff(reached ** (1 / rho))
    np.testing.assert_allclose(steps, steps[0], rtol=1e-4)


@pytest.mark.parametrize("timesteps", [log_snr_timesteps, karras_timesteps])
@pytest.mark.parametrize("betas", [LINEAR, COSINE])
@pytest.mark.parametrize("count", [1, 2, 10, 300, 1000])
def test_rounded_steps_are_distinct_and_as_many_as_asked(timesteps, betas, count):
    steps = timesteps(betas, count)
    assert len(steps) == count
    assert steps[-1] == 999 or (betas is COSINE and count <= 300 and steps[-1] == 995)
    make_schedule(betas, timesteps=steps)  # which wants them ascending and inside
    if count == 10 and betas is LINEAR:  # cosine crowds its last steps
        positions = {
            log_snr_timesteps: log_snr_positions,
            karras_timesteps: karras_positions,
        }[timesteps](betas, count)
        assert np.abs(steps - positions).max() <= 1


@pytest.mark.parametrize("positions", [log_snr_positions, karras_positions])
@pytest.mark.parametrize("num_steps", [1000, 4000])
def test_no_step_is_spent_where_there_is_only_noise(positions, num_steps):
    betas = cosine_betas(num_steps)
    highest = np.exp(5.1)
    for count in (1, 5, 50):
        reached = sigmas(betas, positions(betas, count))
        np.testing.assert_allclose(reached[-1], highest, rtol=1e-4)
        whole = sigmas(betas, positions(betas, count, lambda_min=-np.inf))
        assert whole[-1] > 100 * highest and np.sum(whole > highest) > 0.25 * count
        cut = sigmas(betas, positions(betas, count, lambda_min=-2.0))
        np.testing.assert_allclose(cut[-1], np.exp(2), rtol=1e-4)
    # The default linear chain ends above the cut, and is not changed by it.
    np.testing.assert_array_equal(
        positions(LINEAR, 9), positions(LINEAR, 9, lambda_min=-np.inf)
    )


@pytest.mark.parametrize("betas", [LINEAR, COSINE, linear_betas(10, end=0.4)])
def test_heun_steps_are_even_in_a_root_of_a_fraction_of_sigma(betas):
    whole = sigmas(betas, np.arange(float(len(betas))))
    for count in (1, 2, 8):
        reached = sigmas(betas, heun_positions(betas, count))
        np.testing.assert_allclose(reached[-1], min(80, whole[-1]), rtol=1e-4)
        even = (reached / (reached + 6)) ** 0.6
        steps = np.diff(even, prepend=0)  # from clean data on
        if reached[0] > 1.01 * whole[0]:
            np.testing.assert_allclose(steps, steps[0], rtol=1e-3)
    if len(betas) < 1000:  # then even a step for each lies above the first sigma
        return
    reached = sigmas(betas, heun_positions(betas, len(betas)))
    np.testing.assert_allclose(reached[0], whole[0], rtol=1e-4)


def test_between_whole_steps_log_alpha_is_linear():
    schedule = interpolated_schedule(LINEAR, np.array([3.0, 500.25, 999.0]))
    log_a = np.cumsum(np.log1p(-LINEAR))
    expected = np.exp([log_a[3], 0.75 * log_a[500] + 0.25 * log_a[501], log_a[999]])
    np.testing.assert_allclose(schedule.alphas_cumprod, expected, rtol=1e-6)
    np.testing.assert_array_equal(schedule.timesteps, [3.0, 500.25, 999.0])


def test_whole_positions_give_the_respaced_chain():
    steps = np.array([0, 10, 700, 999])
    ours, theirs = (
        interpolated_schedule(LINEAR, steps),
        make_schedule(LINEAR, timesteps=steps),
    )
    for name in ("betas", "posterior_variance", "sqrt_recipm1_alphas_cumprod"):
        np.testing.assert_allclose(
            getattr(ours, name), getattr(theirs, name), rtol=1e-5
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: log_snr_positions(LINEAR, 0), "at least 1; got 0"),
        (lambda: log_snr_positions(LINEAR, 5, lambda_min=5.0), "lambda_min must lie"),
        (lambda: karras_positions(LINEAR, 5, lambda_min=np.nan), "below .*; got nan"),
        (lambda: heun_positions(LINEAR, 5, lambda_min=5.0), "step 0, 4.60512; got 5"),
        (lambda: heun_positions(zero_terminal_snr(LINEAR), 5), "zero terminal SNR"),
        (lambda: log_snr_timesteps(LINEAR, 1001), "1..1000; got 1001"),
        (lambda: karras_positions(LINEAR, 5, rho=0.0), "must be positive; got rho 0"),
        (lambda: karras_positions(LINEAR, 5, sigma_min=500), "must be positive"),
        (lambda: log_snr_positions(zero_terminal_snr(LINEAR), 5), "zero terminal SNR"),
        (lambda: interpolated_schedule(LINEAR, np.array([3.0, 3.0])), "ascending"),
        (lambda: interpolated_schedule(LINEAR, np.array([3.0, 999.5])), "0..999"),
        (lambda: interpolated_schedule(LINEAR, np.array([])), "positions must be"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
