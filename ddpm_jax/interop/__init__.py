"""Other people's weights in and out; `python -m ddpm_jax.interop` is its command."""
