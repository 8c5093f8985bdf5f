"""Draws images from a trained model: python sample.py --workdir runs/digits."""

from ddpm_jax.commands.entry_points import sample

if __name__ == "__main__":
    sample()
