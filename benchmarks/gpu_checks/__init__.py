"""The sections of `benchmarks/gpu.py`: each a function of the scale, which hands what it finds to a report."""
