"""A small convolutional backbone for images of 28-64 px, made for training on one CPU thread."""

from torch import nn


def small_conv(width: int = 32) -> tuple[nn.Sequential, int]:
    """Four blocks of 3x3 convolution, batch norm and ReLU that bring the resolution down to an eighth.

    Input (b, 3, h, w), output (b, 4 * width, h / 8, w / 8); h and w at least 8. The first convolution has stride 2,
    the second and the third are followed by average pooling: that learned better than strides at the same cost per
    step, and as well as max pooling at less (measured in docs/models.md). Returns the module and its number of
    output channels.
    """
    widths = (width // 2, width, width * 2, width * 4)
    blocks: list[nn.Module] = []
    channels = 3
    for index, out_channels in enumerate(widths):
        blocks.append(_block(channels, out_channels, stride=2 if index == 0 else 1, halve=index in (1, 2)))
        channels = out_channels
    return nn.Sequential(*blocks), channels


def _block(in_channels: int, out_channels: int, *, stride: int, halve: bool) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    layers = [convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AvgPool2d(2)) if halve else nn.Sequential(*layers)
