"""Dotted paths into the config tree."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from ctxtune.text import printable
from ctxtune.yaml_text import Tree

Location: TypeAlias = tuple[str | int, ...]


def format_path(location: Sequence[str | int]) -> str:
    """``("search", "space", "loss.k")`` as ``search.space.loss.k``, on one line."""
    return printable(".".join(str(part) for part in location))


def get_path(tree: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path.

    Raises:
        KeyError: nothing stands there.
    """
    node: Any = tree
    for part in path.split("."):
        if not isinstance(node, Mapping) or part not in node:
            raise KeyError(path)
        node = node[part]
    return node


def set_path(tree: Tree, path: str, value: Any) -> None:
    """Set the value at a dotted path in place, making the blocks on the way."""
    *parents, last = path.split(".")
    for part in parents:
        child = tree.get(part)
        tree[part] = dict(child) if isinstance(child, Mapping) else {}
        tree = tree[part]
    tree[last] = value


def leaves(tree: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Each leaf of a nested mapping with its dotted path; lists are leaves."""
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{path}.")
        else:
            yield path, value


def merge(base: Mapping[str, object], over: Mapping[str, object]) -> dict[str, object]:
    """``base`` overridden by the leaves of ``over``; lists and scalars replace."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def find_key(node: Mapping[str, object], parts: Sequence[str], *, dotted: bool) -> tuple[str, int]:
    """The key of ``node`` that the first of ``parts`` mean, and how many parts it takes.

    Keys may hold dots themselves (``search.space``): the longest key that is there wins; where ``dotted`` says that all
    keys of this block are dotted paths, a new key takes all the parts.
    """
    for used in range(len(parts), 0, -1):
        if ".".join(parts[:used]) in node:
            return ".".join(parts[:used]), used
    return (".".join(parts), len(parts)) if dotted else (parts[0], 1)
