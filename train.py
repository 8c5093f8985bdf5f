"""Trains a diffusion model; run again, it goes on from its newest checkpoint.

python train.py                                        digits, in minutes
python train.py --config configs/cifar10.py --workdir DIR --train.batch-size 256
"""

from ddpm_jax.commands.entry_points import train

if __name__ == "__main__":
    train()
