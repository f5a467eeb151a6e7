"""A linear readout of the motion latent, used in training only."""

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn


class FaceReadout(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Predict the change of a face between frames from the change of its motion latent.

    Linear and independent of what the frames have in common, so that the same change of the latent
    has the same meaning for all identities.
    """

    @register_to_config
    def __init__(self, latent_width: int, numbers: int) -> None:
        super().__init__()
        self.linear = nn.Linear(latent_width, numbers, bias=False)

    def forward(self, face_BFD: Tensor) -> Tensor:
        """Return (B, F, numbers): each frame's difference from the mean of its sample's frames."""
        change: Tensor = self.linear(face_BFD - face_BFD.mean(dim=1, keepdim=True))
        return change
