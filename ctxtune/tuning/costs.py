"""What runs cost; see `ctxtune.results.costs`."""

from ctxtune.results.costs import GPU_HOURS, MONEY, Rate, Spent, spent

__all__ = ["GPU_HOURS", "MONEY", "Rate", "Spent", "spent"]
