"""Channel layout of a UNet initialised by `init_reference_copy`."""

from dataclasses import dataclass

# Minimum channels for the position table: two waves per axis.
_MIN_TABLE = 8


@dataclass(frozen=True)
class CopyChannels:
    """Use of the channels of every feature map, for latents of `latent_channels` channels.

    The layout applies at initialisation; training is free to change it.
    """

    latent_channels: int

    @property
    def own(self) -> slice:
        """The input latents."""
        return slice(0, self.latent_channels)

    @property
    def fetched(self) -> slice:
        """What self-attention fetched from the reference; becomes the output."""
        return slice(self.latent_channels, 2 * self.latent_channels)

    @property
    def shift(self) -> slice:
        """Offset (down, right) from a cell's position at which it fetches; initially zero."""
        return slice(2 * self.latent_channels, 2 * self.latent_channels + 2)

    @property
    def here(self) -> int:
        """Constant 1 after the norm of every self-attention; carries a cell's own position."""
        return 2 * self.latent_channels + 2

    @property
    def reference(self) -> int:
        """Constant 1 after the norm in the reference network; identifies reference tokens."""
        return 2 * self.latent_channels + 3

    @property
    def table(self) -> int:
        """First channel of the position table, which fills all remaining channels."""
        return 2 * self.latent_channels + 4

    @property
    def min_width(self) -> int:
        """Minimum channels of a level."""
        return self.table + _MIN_TABLE
