"""What is asked of a network, the U-Net or one's own."""

from typing import Any, Protocol


class Network(Protocol):
    """A Linen module with these two fields is one, and so is what acts like it.

    It must be hashable, as Linen modules are: it is part of compiled programs.
    """

    # Channels of the output: the data's, or twice as many for a learned variance.
    out_channels: int
    # Whether a label equal to the number of classes means "no label", which guidance
    # and label dropout need.
    null_label: bool

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        """init(key, x, t, label)["params"]: the initial parameters, float32.

        x, t and label are as `apply` has them, label None for an unconditional model.
        """

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """apply({"params": params}, x, t, label, train, rngs={"dropout": key}).

        Called with x (b, h, w, c), steps t (b,), integers or floats between two of them
        where a solver asks there, and labels (b,) int32, or None for an unconditional
        model and for "no label"; train and rngs come in training alone.

        Returns:
            (b, h, w, out_channels).
        """
