"""A small convolutional backbone for images of 28-64 px, made for training on one CPU thread."""

from torch import nn


def small_conv(width: int = 32) -> tuple[nn.Sequential, int]:
    """Four blocks of 3x3 convolution, batch norm and ReLU; the first three halve the resolution.

    Input (b, 3, h, w), output (b, 4 * width, h / 8, w / 8). Widths are 1, 1.5, 3 and 4 times `width` (a multiple
    of 8, so that channel counts stay multiples of the vector width). Strides in place of max pooling: see
    docs/models.md for what was measured. Returns the module and its number of output channels.
    """
    widths = (width, width * 3 // 2, width * 3, width * 4)
    strides = (2, 2, 2, 1)
    blocks: list[nn.Module] = []
    channels = 3
    for out_channels, stride in zip(widths, strides, strict=True):
        blocks.append(_block(channels, out_channels, stride))
        channels = out_channels
    return nn.Sequential(*blocks), channels


def _block(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))
