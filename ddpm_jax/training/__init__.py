"""The training run: state, step, devices, checkpoints, and the loop over them."""
