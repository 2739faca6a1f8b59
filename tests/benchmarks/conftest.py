"""Scripts of `benchmarks/` as modules."""

import importlib.util
import sys

import pytest


@pytest.fixture(scope="module")
def load_benchmark(repository):
    """Import a benchmark by its name, as a script that is run sees its neighbors; afterwards they are forgotten."""
    path, before = sys.path[:], set(sys.modules)
    folder = str(repository / "benchmarks")
    sys.path.insert(0, folder)

    def load(name: str):
        spec = importlib.util.spec_from_file_location(f"{name}_benchmark", f"{folder}/{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module

    yield load
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(folder):
            del sys.modules[name]
