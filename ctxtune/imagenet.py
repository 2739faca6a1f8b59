"""The pixel statistics of ImageNet, which most pretrained networks expect."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Per RGB channel, of values in [0, 1]."""
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
