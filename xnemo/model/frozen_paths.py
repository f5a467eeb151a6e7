"""Where the frozen parts lie on this machine."""

from dataclasses import dataclass, replace

from xnemo.model.config import NetworkConfig
from xnemo.model.frozen.autoencoder import FIXED


@dataclass(frozen=True)
class FrozenPaths:
    """Folders to use instead of those that a model's configuration names.

    A model says where autoencoder and image embedding were found when it was trained; elsewhere
    they may lie elsewhere. Parts without weights have no place, and are left as they are.
    """

    # Local folder or hub name of the autoencoder's weights; None keeps the model's own.
    autoencoder: str | None = None
    # The same of the image embedding's.
    image_token: str | None = None

    def applied(self, config: NetworkConfig) -> NetworkConfig:
        """Return the configuration with these places."""
        autoencoder, image_token = config.autoencoder, config.image_token
        if self.autoencoder and autoencoder.kind not in FIXED:
            autoencoder = replace(autoencoder, path=self.autoencoder, subfolder=None)
        if self.image_token and image_token.kind == "clip":
            image_token = replace(image_token, path=self.image_token, subfolder=None)
        return replace(config, autoencoder=autoencoder, image_token=image_token)
