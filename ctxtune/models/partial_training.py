"""What of a backbone trains: all of it, its last blocks, low-rank adapters, or nothing."""

from collections.abc import Iterator

import torch
from torch import nn

from ctxtune.errors import ConfigError
from ctxtune.models.own_backbone import OwnFeatures
from ctxtune.models.settings import Adapters, LastBlocks, LoraSettings, ModelSettings
from ctxtune.models.timm_models import TimmFeatures

ADAPTER = "lora_"
"""In the names of the parameters that peft adds."""
PROBE_SIZE = 224
"""Side in px of an image by which it is found out what a network calls, where it is not made for another size."""


def prepare_training(settings: ModelSettings, backbone: nn.Module) -> frozenset[str] | None:
    """The names of those parameters of a backbone that train; None: all of them. Adapters are put in here.

    Raises:
        ConfigError: it has fewer blocks, or no layers that an adapter fits; no package for adapters.
    """
    way = settings.training
    if way == "full":
        return None
    if way == "head":
        return frozenset()
    if isinstance(way, LastBlocks):
        found = blocks(backbone)
        if way.last_blocks >= len(found):
            raise ConfigError(
                f"model.train.last_blocks {way.last_blocks}: {settings.backbone} has {len(found)} blocks; take fewer, "
                "or train: full"
            )
        return frozenset(name for block in found[-way.last_blocks :] for name in block)
    assert isinstance(way, Adapters)
    _add_adapters(backbone, way.lora, settings.backbone)
    return frozenset(name for name, _ in backbone.named_parameters() if ADAPTER in name)


def blocks(backbone: nn.Module) -> list[list[str]]:
    """The names of a backbone's parameters, block by block from the input to the output.

    timm's networks say what their blocks are, and so may a class of one's own; of others, a block is a residual or
    transformer block, or a convolution with its norm. Norms alone belong to the block before them.
    """
    if isinstance(backbone, TimmFeatures) and hasattr(backbone.network, "group_matcher"):
        from timm.models import group_parameters

        matcher = backbone.network.group_matcher(coarse=False)  # type: ignore[operator]
        groups: dict[int, list[str]] = group_parameters(backbone.network, matcher)
        return [[f"network.{name}" for name in groups[number]] for number in sorted(groups)]
    if isinstance(backbone, OwnFeatures) and hasattr(backbone.network, "blocks"):
        return _by_modules(backbone, list(backbone.network.blocks()))  # type: ignore[operator]
    return _by_modules(backbone, list(_units(backbone)))


def _units(module: nn.Module) -> Iterator[nn.Module]:
    """The parts of a network that are no mere containers, in order."""
    for child in module.children():
        plain = isinstance(child, (nn.Sequential, nn.ModuleList)) or type(child).__name__ in ("Encoder", "network")
        if plain or (isinstance(module, (TimmFeatures, OwnFeatures)) and any(True for _ in child.children())):
            yield from _units(child)
        else:
            yield child


def _by_modules(backbone: nn.Module, parts: list[nn.Module]) -> list[list[str]]:
    names = {id(parameter): name for name, parameter in backbone.named_parameters()}
    shapes = {name: parameter.ndim for name, parameter in backbone.named_parameters()}
    found: list[list[str]] = []
    taken: set[str] = set()
    for part in parts:
        own = [
            names[id(parameter)] for parameter in part.parameters() if names.get(id(parameter)) not in (None, *taken)
        ]
        taken.update(own)
        if own and found and all(shapes[name] == 1 for name in own):
            found[-1].extend(own)
        elif own:
            found.append(own)
    rest = [name for name in shapes if name not in taken]  # class tokens, positions: they enter first
    if rest:
        found = [rest + found[0], *found[1:]] if found else [rest]
    return found


def _add_adapters(backbone: nn.Module, lora: LoraSettings, name: str) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError("model.train: lora needs the package peft: pip install peft (or 'ctxtune[lora]')") from error
    targets = _targets(backbone, lora, name)
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets)  # type: ignore[arg-type]
    inject_adapter_in_model(config, backbone)


def _targets(backbone: nn.Module, lora: LoraSettings, name: str) -> list[str]:
    called = _called(backbone)
    linear = [path for path, module in called.items() if isinstance(module, nn.Linear)]
    known = list(called)
    if lora.targets is None:
        if not known:
            raise ConfigError(
                f"model.train: lora: {name} has no linear layer and no convolution that could take an adapter"
            )
        return linear or known
    chosen = []
    for target in lora.targets:
        matching = [path for path in known if path == target or path.endswith(f".{target}")]
        if not matching:
            endings = sorted({path.rpartition(".")[2] for path in known})
            raise ConfigError(
                f"model.train.lora.targets: no linear layer or convolution that {name} calls is named {target!r}; the last "
                f"parts of their names are {', '.join(endings[:12])}{', ...' if len(endings) > 12 else ''}"
            )
        chosen += matching
    return chosen


def _called(backbone: nn.Module) -> dict[str, nn.Module]:
    """The linear layers and dense convolutions that a forward pass calls, by name.

    Some attention modules compute with the weights of their layers without calling these (torch's MultiheadAttention,
    torchvision's Swin, timm's BEiT): an adapter there would never take part.
    """
    candidates = {
        path: module
        for path, module in backbone.named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
    }
    seen: set[str] = set()
    hooks = [
        module.register_forward_hook(lambda module, inputs, output, path=path: seen.add(path))
        for path, module in candidates.items()
    ]
    modes = {module: module.training for module in backbone.modules()}
    size = getattr(backbone, "image_size", None) or PROBE_SIZE
    try:
        with torch.no_grad(), torch.random.fork_rng([]):
            backbone.eval()(torch.zeros(1, 3, size, size))
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    return {path: module for path, module in candidates.items() if path in seen}
