"""From a picture to what an exported model takes, described as data so that it travels with the model."""

from collections.abc import Sequence

import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from ctxtune.image_modes import to_rgb, without_ends
from ctxtune.imagenet import IMAGENET_DEVIATION, IMAGENET_MEAN
from ctxtune.settings import Settings


class Preprocessing(Settings):
    """The steps before the model, in this order: RGB, resize, center crop, scale to [0, 1], normalize.

    RGB as in training and evaluation: turned as EXIF says, what is transparent over white.
    The fields `resize` and `crop` are `image.test_resize` and `image.test_crop` of the config tree.
    """

    resize: int | tuple[int, int] | None = Field(
        default=256, description="px; a number is the short side (aspect kept), two are height and width"
    )
    crop: int | None = Field(default=224, description="px; side of the center crop, null for none")
    interpolation: str = Field(default="bilinear", pattern="^(bilinear|bicubic)$", description="with antialiasing")
    mean: tuple[float, float, float] = IMAGENET_MEAN
    deviation: tuple[float, float, float] = IMAGENET_DEVIATION

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """The images as one batch (b, 3, h, w) float32.

        Raises ValueError where the images end up in different sizes (no crop, and a resize that keeps the aspect).
        """
        prepared = [self._one(image) for image in images]
        shapes = {tuple(image.shape[1:]) for image in prepared}
        if len(shapes) > 1:
            raise ValueError(
                f"images of different sizes {sorted(shapes)} cannot be one batch: set crop, or give one at a time"
            )
        return torch.stack(prepared)

    def _one(self, image: Image.Image) -> Tensor:
        from torchvision.transforms.v2 import functional as transforms

        image = to_rgb(image)
        if isinstance(self.resize, int) and self.crop is not None:
            image = without_ends(image, self.resize, self.crop)
        if self.resize is not None:
            size = [self.resize] if isinstance(self.resize, int) else list(self.resize)
            image = transforms.resize(image, size, transforms.InterpolationMode(self.interpolation))  # antialiased: PIL
        if self.crop is not None:
            image = transforms.center_crop(image, [self.crop])
        scaled = transforms.to_dtype(transforms.pil_to_tensor(image), torch.float32, scale=True)
        return transforms.normalize(scaled, list(self.mean), list(self.deviation))
