"""Classes that a configuration names as `package.module:Class`."""

import importlib


def named_object(name: str, what: str) -> object:
    """What `package.module:Class` names, for the caller to check; `what` it is for, as in "a loss", stands in the messages.

    Raises:
        ValueError: the name is malformed, or the import fails.
    """
    module_name, _, class_name = name.partition(":")
    if not module_name or not class_name:
        raise ValueError(f"{what} of your own is named package.module:Class, not {name!r}")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except ImportError as error:
        raise ValueError(f"cannot import {module_name!r} for {what}, {name!r}: {error}") from error
    except AttributeError as error:
        raise ValueError(f"module {module_name!r} has no {class_name!r} ({name!r})") from error
    except Exception as error:  # a module of the user's may raise anything while it is imported
        raise ValueError(f"importing {module_name!r} failed: {type(error).__name__}: {error}") from error
    return found
