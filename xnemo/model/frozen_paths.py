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
    image_embedding: str | None = None

    def applied(self, config: NetworkConfig) -> NetworkConfig:
        """Return the configuration with these places."""
        autoencoder, image_embedding = config.autoencoder, config.image_embedding
        if self.autoencoder and autoencoder.kind not in FIXED:
            autoencoder = replace(autoencoder, path=self.autoencoder, subfolder=None)
        if self.image_embedding and image_embedding.kind == "clip":
            image_embedding = replace(image_embedding, path=self.image_embedding, subfolder=None)
        return replace(config, autoencoder=autoencoder, image_embedding=image_embedding)
