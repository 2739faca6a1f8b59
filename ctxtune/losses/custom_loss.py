"""A user's own loss: `name: package.module:Class`."""

import inspect
from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, create_model
from torch import nn

from ctxtune.imports import named_object
from ctxtune.settings import Settings

_SIZES = {"num_classes": "num_classes", "embedding_dim": "embedding_dim", "embedding_size": "embedding_dim"}


def custom_loss_class(name: str) -> type[nn.Module]:
    """Import `package.module:Class`.

    Raises:
        ValueError: the name is malformed, the import fails, or what is found is no torch.nn.Module class.
    """
    found = named_object(name, "a loss")
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(f"{name!r} is no torch.nn.Module class")
    return found


def custom_loss_inputs(name: str) -> frozenset[str]:
    """The names of the arguments that the loss is called with; `**kwargs` alone promises nothing."""
    return frozenset(inspect.signature(custom_loss_class(name).forward).parameters)


def custom_loss_options(name: str) -> type[Settings]:
    """A settings model of the constructor's arguments: required without a default, the rest filled in.

    num_classes, embedding_dim and embedding_size are given by the trainer and are no options.
    Arguments whose default is no plain data (a module, say) keep it and cannot be set from a file.
    """
    fields: dict[str, Any] = {}
    open_ended = False
    for argument in _arguments(name):
        if argument.kind is inspect.Parameter.VAR_KEYWORD:
            open_ended = True
        elif argument.name not in _SIZES and argument.kind is not inspect.Parameter.VAR_POSITIONAL:
            if argument.default is inspect.Parameter.empty:
                fields[argument.name] = (Any, ...)
            elif _is_plain(argument.default):
                fields[argument.name] = (Any, argument.default)
    base: type[Settings] = _OpenSettings if open_ended else Settings
    return create_model("OwnLossSettings", __base__=base, **fields)


def build_custom_loss(
    name: str, options: Mapping[str, object], num_classes: int | None, embedding_dim: int | None
) -> nn.Module:
    """The user's loss, given the sizes it asks for by name.

    Raises:
        ValueError: it asks for a size that is not known.
    """
    known = {"num_classes": num_classes, "embedding_dim": embedding_dim}
    given = dict(options)
    for argument in _arguments(name):
        size = _SIZES.get(argument.name)
        if size is None:
            continue
        if known[size] is not None:
            given[argument.name] = known[size]
        elif argument.default is inspect.Parameter.empty:
            raise ValueError(f"loss {name!r} needs {size}")
    return custom_loss_class(name)(**given)


def _arguments(name: str) -> list[inspect.Parameter]:
    return list(inspect.signature(custom_loss_class(name)).parameters.values())


class _OpenSettings(Settings):
    model_config = ConfigDict(extra="allow")


def _is_plain(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return value is None or isinstance(value, (bool, int, float, str))
