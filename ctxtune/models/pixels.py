"""How a backbone wants its pixels: what it was trained on, and what it must therefore be given everywhere."""

import math
from dataclasses import dataclass

from ctxtune.imagenet import IMAGENET_DEVIATION, IMAGENET_MEAN
from ctxtune.models.settings import TIMM, ModelSettings, is_own_class


@dataclass(frozen=True)
class PixelFormat:
    """Pixel statistics and geometry of a backbone.

    Attributes:
        mean, deviation: per RGB channel, of values in [0, 1].
        interpolation: bilinear or bicubic.
        image_size: side in px of the images that it was made for; None where any will do.
        crop_share: share of the resized image's side that its test crop takes.
        squash: its test images were resized to a square, their aspect ignored.
    """

    mean: tuple[float, float, float] = IMAGENET_MEAN
    deviation: tuple[float, float, float] = IMAGENET_DEVIATION
    interpolation: str = "bilinear"
    image_size: int | None = None
    crop_share: float = 0.875
    squash: bool = False

    def test_resize(self, crop: int) -> int | tuple[int, int]:
        """`image.test_resize` for test crops of `crop` px."""
        side = math.floor(crop / self.crop_share)
        return (side, side) if self.squash else side


def pixel_format(settings: ModelSettings) -> PixelFormat:
    """The pixel format of a backbone: timm's data configuration, what a class of one's own states, else ImageNet's.

    No network is built.
    """
    if settings.backbone.startswith(TIMM):
        from ctxtune.models.timm_models import pixel_format as of_timm

        return of_timm(settings.backbone)
    if is_own_class(settings.backbone):
        from ctxtune.models.own_backbone import pixel_format as of_own

        return of_own(settings.backbone)
    return PixelFormat()
