"""Pure functions of a schedule: the forward process, the reverse process, and its bound."""
