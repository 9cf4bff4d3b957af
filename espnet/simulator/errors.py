"""What the simulator expects to go wrong."""

from espnet.errors import EspNetError


class SimulatorError(EspNetError):
    """A simulated board cannot be started, or was asked for something it cannot do."""
