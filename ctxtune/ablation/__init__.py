"""Designed ablations run as sweeps are: cells, each with its own small search, then seeds shared by all."""
