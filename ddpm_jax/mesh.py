"""The devices of a program as a mesh, and what is divided over it."""

import jax
from jax.sharding import AxisType, Mesh

BATCH_AXES = ("data", "fsdp")  # the batch is divided over both axes of the mesh


def make_mesh(devices: list[jax.Device] | None = None, *, fsdp: int = 1) -> Mesh:
    """The ('data', 'fsdp') mesh over all devices, with automatic axes.

    Raises:
        ValueError: if fsdp does not divide the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    if len(devices) % fsdp:
        raise ValueError(
            f"train.fsdp must divide the number of devices, {len(devices)}; got {fsdp}"
        )
    return jax.make_mesh(
        (len(devices) // fsdp, fsdp),
        BATCH_AXES,
        axis_types=(AxisType.Auto, AxisType.Auto),
        devices=devices,
    )
