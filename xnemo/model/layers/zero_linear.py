"""A linear layer that starts at zero."""

from torch import nn


class ZeroLinear(nn.Linear):
    """Output layer of a new residual branch: until it is trained, the branch adds nothing."""

    def reset_parameters(self) -> None:
        """Set weight and bias to zero."""
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
