"""The interval of the numbers that a sweep prints itself; it lives in `ctxtune.statistics`."""

from ctxtune.statistics import Interval, t_interval

__all__ = ["Interval", "t_interval"]
