"""Global pooling of feature maps: (b, channels, h, w) to (b, channels)."""

import torch
from torch import Tensor, nn


class AveragePooling(nn.Module):
    """The mean over all positions."""

    def forward(self, features: Tensor) -> Tensor:
        """Pool (b, c, h, w) to (b, c)."""
        return features.mean(dim=(2, 3))


class MaxPooling(nn.Module):
    """The maximum over all positions."""

    def forward(self, features: Tensor) -> Tensor:
        """Pool (b, c, h, w) to (b, c)."""
        return features.amax(dim=(2, 3))


class AverageMaxPooling(nn.Module):
    """The sum of average and maximum, as in the code of Proxy-Anchor (Kim et al., CVPR 2020)."""

    def forward(self, features: Tensor) -> Tensor:
        """Pool (b, c, h, w) to (b, c)."""
        return features.mean(dim=(2, 3)) + features.amax(dim=(2, 3))


class GeneralizedMeanPooling(nn.Module):
    """GeM: (mean of max(x, floor)^p)^(1/p), Radenovic et al., TPAMI 2019, equation 3.

    Features below `floor` count as `floor`: it suits feature maps after a ReLU. Computed in float32, because the
    third power of half-precision features under- and overflows.
    """

    def __init__(self, power: float = 3.0, trainable: bool = False, floor: float = 1e-6) -> None:
        super().__init__()
        self.floor = floor
        self.power = nn.Parameter(torch.tensor(float(power)), requires_grad=trainable)
        # A fixed 3 needs no transcendental function over the feature map.
        self.is_cube = not trainable and power == 3.0

    def forward(self, features: Tensor) -> Tensor:
        """Pool (b, c, h, w) to (b, c), in float32 at least."""
        clamped = features.to(torch.promote_types(features.dtype, torch.float32)).clamp(min=self.floor)
        if self.is_cube:
            return (clamped * clamped * clamped).mean(dim=(2, 3)).pow(1.0 / 3.0)
        return clamped.pow(self.power).mean(dim=(2, 3)).pow(1.0 / self.power)

    def extra_repr(self) -> str:
        """Show the power in the module's printed form."""
        return f"power={self.power.item():g}, trainable={self.power.requires_grad}"


class AlreadyPooled(nn.Module):
    """Vectors as they are, and the mean of maps."""

    def forward(self, features: Tensor) -> Tensor:
        """(b, c) or (b, c, h, w) to (b, c)."""
        return features if features.ndim == 2 else features.mean(dim=(2, 3))


def build_pooling(name: str, *, gem_power: float = 3.0, gem_trainable: bool = False) -> nn.Module:
    """The pooling of that name: average, max, average_max, gem, class_token or model.

    class_token: the backbone has already chosen the token and gives a map of one position, which is flattened.
    model: the backbone has pooled itself; where it gives maps all the same, their mean is taken.
    Raises ValueError for another name.
    """
    if name == "gem":
        return GeneralizedMeanPooling(gem_power, gem_trainable)
    plain: dict[str, type[nn.Module]] = {
        "average": AveragePooling,
        "max": MaxPooling,
        "average_max": AverageMaxPooling,
        "class_token": nn.Flatten,
        "model": AlreadyPooled,
    }
    if name not in plain:
        raise ValueError(f"unknown pooling {name!r}; known: {', '.join([*plain, 'gem'])}")
    return plain[name]()
