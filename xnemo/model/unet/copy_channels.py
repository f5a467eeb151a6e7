"""What the channels of a UNet mean that starts as a copier of its reference."""

from dataclasses import dataclass

# Channels of the table of places that a width must have room for: two waves for each axis.
_LEAST_TABLE = 8


@dataclass(frozen=True)
class CopierChannels:
    """Uses of the first channels of every feature map, for latents of so many channels.

    They are uses at the start alone: nothing keeps training from changing them.
    """

    latent_channels: int

    @property
    def own(self) -> slice:
        """The latents that came in."""
        return slice(0, self.latent_channels)

    @property
    def fetched(self) -> slice:
        """What self-attention fetched: the reference's latents, to be given out."""
        return slice(self.latent_channels, 2 * self.latent_channels)

    @property
    def shift(self) -> slice:
        """How far beside its own place a cell fetches, down and to the right; zero at the start."""
        return slice(2 * self.latent_channels, 2 * self.latent_channels + 2)

    @property
    def here(self) -> int:
        """One after the norm of every self-attention; asks for, and marks, a cell's own place."""
        return 2 * self.latent_channels + 2

    @property
    def reference(self) -> int:
        """One after the norm in the reference network: marks places as the reference's."""
        return 2 * self.latent_channels + 3

    @property
    def table(self) -> int:
        """First of the channels that hold the table of places; all that follow do."""
        return 2 * self.latent_channels + 4

    @property
    def least_width(self) -> int:
        """Fewest channels a level must have."""
        return self.table + _LEAST_TABLE
