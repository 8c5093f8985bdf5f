"""What is asked of a network, the U-Net or one's own."""

from typing import Any, Protocol


class Network(Protocol):
    """What is asked of a network: the U-Net, or one's own.

    A Linen module with these two fields is one, and so is what acts like it. It must be
    hashable, as Linen modules are: it is part of compiled programs.

    Attributes:
        out_channels: channels of the output: the data's, or twice as many for a learned
            variance.
        null_label: whether a label equal to the number of classes means "no label",
            which guidance and label dropout need (Ho & Salimans 2022).
    """

    out_channels: int
    null_label: bool

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        """init(key, x, t, label)["params"]: the initial parameters, float32.

        Args:
            rngs: a key, which is consumed.
            args: x (b, h, w, c), t (b,) and label (b,), as `apply` has them; label is
                None for an unconditional model.
            kwargs: Linen's own.
        """

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """apply({"params": params}, x, t, label, train, rngs={"dropout": key}).

        Args:
            variables: {"params": what `init` made}.
            args: x (b, h, w, c), steps t (b,), integers or floats between two of them
                where a solver asks there, and labels (b,) int32, or None for an
                unconditional model and for "no label"; in training, train.
            kwargs: in training, rngs.

        Returns:
            (b, h, w, out_channels).
        """
