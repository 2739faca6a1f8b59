"""Designed ablations on the engine of sweeps: cells, each with its own small search, then seeds shared by all."""
