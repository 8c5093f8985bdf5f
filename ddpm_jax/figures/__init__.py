"""Figures of the method, drawn from a trained run: python -m ddpm_jax.figures NAME.

One file a figure, each with a function `draw`; `style` is the look that they share and
`gallery` the grid of labelled pictures. They need matplotlib (extra `[plots]`).
"""
