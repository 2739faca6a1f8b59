"""Ablation files into typed settings, with every arm checked."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from pydantic import ValidationError

from ctxtune.config.ablation import Ablation, BestOf
from ctxtune.config.cell_search import check_search
from ctxtune.config.cells import ArmError
from ctxtune.config.design import cells_of, contrasts_of
from ctxtune.config.load import fill_in, laid_on, validated
from ctxtune.config.paths import Location
from ctxtune.config.source import Override, Source, apply_overrides, read_overrides, read_source
from ctxtune.errors import ConfigError, CtxtuneError
from ctxtune.shipped import named
from ctxtune.text import shortened
from ctxtune.yaml_text import Tree

FindBest = Callable[[BestOf, Tree], Tree]
"""From `base: {best_of: SWEEP}` and the file's own data to the data of that sweep's best.yaml."""
_INHERITED = ("validation", "tracking", "resources")


def load_ablation(
    path: Path | str, overrides: Iterable[str | Override] = (), *, find_best: FindBest | None = None
) -> Ablation:
    """Read an ablation file.

    Args:
        path: the YAML file.
        overrides: ``a.b=value`` texts, as given to ``--set``, with paths from the file's root.
        find_best: who reads the best of a sweep from tracking, for files with ``base: {best_of: SWEEP}``.

    Raises:
        ConfigError: anything wrong in it, with file, line, key, what was found and what would be right: among others an
            arm that cannot be run, is the same as another, or changes what its run does not read.
    """
    source, read = read_source(path), read_overrides(overrides)
    named = _named(source.data, read)
    apply_overrides(source, read, _dotted_blocks(named), _removable(named))
    if "search" in source.data:
        raise source.error(("search",), "this is a search-space file; run it with ctxtune.sweep, or name it as `base:`")
    _lay_on_base(source, find_best)
    fill_in(source)
    ablation = validated(Ablation, source)
    try:
        cells = cells_of(ablation)
        contrasts_of(ablation, cells)
        if ablation.tune_each is not None:
            for cell in cells:
                check_search(ablation, cell)
    except ArmError as error:
        raise source.error(error.location, str(error)) from None
    return ablation


def _named(data: Tree, overrides: list[Override]) -> set[str]:
    """The names of variants, and of variants with a space of their own."""
    variants, tune = data.get("variants"), data.get("tune_each")
    names = set(variants) if isinstance(variants, dict) else set()
    spaces = tune.get("spaces") if isinstance(tune, dict) else None
    names |= set(spaces) if isinstance(spaces, dict) else set()
    for override in overrides:
        parts = override.path.split(".")
        names |= {parts[1]} if parts[0] == "variants" and len(parts) > 2 else set()
        names |= {parts[2]} if parts[:2] == ["tune_each", "spaces"] and len(parts) > 3 else set()
    return names


def _dotted_blocks(named: set[str]) -> list[Location]:
    """The blocks whose keys are dotted paths: each variant's and each own space's among them."""
    blocks: list[Location] = [("factors",), *(("tune_each", block) for block in ("space", "conditions", "ties"))]
    return blocks + [("variants", name) for name in named] + [("tune_each", "spaces", name) for name in named]


def _removable(named: set[str]) -> dict[Location, Location]:
    """Where null takes a key out; in a variant's own space it takes out one of the space of all."""
    blocks: list[Location] = [("variants",), ("factors",), ("tune_each", "space"), ("tune_each", "spaces")]
    own: dict[Location, Location] = {("tune_each", "spaces", name): ("tune_each", "space") for name in named}
    return {**{block: block for block in blocks}, **own}


def _lay_on_base(source: Source, find_best: FindBest | None) -> None:
    """Put the base's trial under the file's own; what the file does not say of validation and the like comes with it."""
    base = source.data.pop("base", None)
    if base is None:
        return
    if isinstance(base, str):
        found, note = _base_file(source, base), base
    else:
        try:
            request = BestOf.model_validate(base)
        except ValidationError:
            raise source.error(
                ("base",), f"expected a file or {{best_of: SWEEP}}; found {shortened(repr(base))}"
            ) from None
        if find_best is None:
            raise source.error(("base",), "the best of a sweep is read from tracking; here is none")
        try:
            found, note = find_best(request, source.data), f"best of {request.best_of}"
        except CtxtuneError as error:
            raise source.error(("base", "best_of"), str(error)) from None
    own = source.data.get("trial")
    if own is not None and not isinstance(own, dict):
        raise source.error(("trial",), f"expected a block with keys; found {shortened(repr(own))}")
    source.data["trial"] = laid_on(found["trial"], own or {})
    for block in _INHERITED:
        if block in found:
            source.data.setdefault(block, found[block])
    source.data.setdefault("based_on", note)


def _base_file(source: Source, name: str) -> Tree:
    """The data of a file that a base names: a path relative to the file that names it, or a shipped file's name."""
    try:
        path = source.path.parent / Path(name).expanduser()  # an absolute one stays
        shipped = [] if os.path.exists(path) else named(name)  # noqa: PTH110 - no error for a name that is too long
        other = read_source(shipped[0] if shipped else path)
        fill_in(other)
    except (ConfigError, RuntimeError) as error:  # RuntimeError: ~ of somebody who is not there
        raise source.error(("base",), str(error)) from None
    if not isinstance(other.data.get("trial"), dict):
        raise source.error(("base",), f"{other.path} has no `trial` block")
    return other.data
