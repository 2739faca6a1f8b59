"""What of a backbone trains, what is frozen, and what that costs."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from ctxtune.config import TrialSettings
from ctxtune.config.trial import OptimizerSettings
from ctxtune.errors import ConfigError, CtxtuneError
from ctxtune.models import EmbeddingModel, ModelSettings, build_model
from ctxtune.models.export import export_model
from ctxtune.models.exported import load_exported
from ctxtune.models.preprocessing import Preprocessing
from ctxtune.training.optimization import build_optimizer

needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft not installed")
SIZE = {"resnet18": 64, "timm/test_vit": 160, "timm/test_efficientnet": 64}
# The blocks, worked out by hand: stem and residual blocks; patch embedding and transformer blocks; stem and stages.
BLOCKS = {"resnet18": 9, "timm/test_vit": 7, "timm/test_efficientnet": 6}
LAST = {"resnet18": "layer4.1.", "timm/test_vit": "network.blocks.5.", "timm/test_efficientnet": "network.blocks.4."}
WAYS: list[Any] = ["head", {"last_blocks": 1}, pytest.param({"lora": {"rank": 2}}, marks=needs_peft)]


def model_of(backbone: str, train: Any, **options: Any) -> EmbeddingModel:
    torch.manual_seed(0)
    settings = ModelSettings(
        **{"backbone": backbone, "weights": None, "train": train, "projector_dim": None, "embedding_dim": 8, **options}
    )
    return build_model(settings, image_size=SIZE[backbone])


def images_for(backbone: str) -> torch.Tensor:
    return torch.randn(2, 3, SIZE[backbone], SIZE[backbone])


@pytest.mark.parametrize("backbone", SIZE)
@pytest.mark.parametrize("train", WAYS, ids=str)
def test_what_is_frozen_never_changes_and_costs_nothing(backbone: str, train: Any) -> None:
    model = model_of(backbone, train)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = build_optimizer(OptimizerSettings(lr=0.1), model, torch.nn.Identity())
    for _ in range(2):
        model.eval()
        model.train()
        optimizer.zero_grad()
        model(images_for(backbone)).square().sum().backward()
        optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    head = {"embedding.weight", "embedding.bias"}
    assert head <= changed & with_gradient
    backbone_changes = {name.removeprefix("backbone.") for name in changed | with_gradient if "backbone" in name}
    if train == "head":
        assert not backbone_changes
        assert not any(module.training for module in model.backbone.modules())
    elif "lora" in train:
        assert backbone_changes
        assert all("lora_" in name for name in backbone_changes)
    else:
        assert backbone_changes
        tail = ("network.norm.", "network.conv_head", "network.bn2")
        assert all(name.startswith((LAST[backbone], *tail)) for name in backbone_changes)
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert trained == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert len(optimizer.state) == len(trained)


@pytest.mark.parametrize("backbone", SIZE)
@pytest.mark.parametrize("train", WAYS[1:], ids=str)
def test_kept_states_hold_what_trained_and_no_more(backbone: str, train: Any, tmp_path: Path) -> None:
    torch.manual_seed(1)
    plain = model_of(backbone, "full")
    torch.save(plain.backbone.state_dict(), tmp_path / "weights.pth")
    model = model_of(backbone, train, weights=str(tmp_path / "weights.pth"), batch_norm="trained")
    optimizer = build_optimizer(OptimizerSettings(lr=0.1), model, torch.nn.Identity())
    model(images_for(backbone)).square().sum().backward()
    optimizer.step()
    state = model.trained_state()
    assert sum(value.numel() for value in state.values()) < 0.8 * sum(
        value.numel() for value in model.state_dict().values()
    )
    again = model_of(backbone, train, weights=str(tmp_path / "weights.pth"), batch_norm="trained")
    again.load_trained_state(state)
    images = images_for(backbone)
    with torch.no_grad():
        assert torch.equal(again.eval()(images), model.eval()(images))
    with pytest.raises(CtxtuneError, match="missing, such as"):
        again.load_trained_state({"embedding.weight": state["embedding.weight"]})


def test_fresh_adapters_change_nothing_yet(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    plain = model_of("timm/test_vit", "full").eval()
    torch.save(plain.backbone.state_dict(), tmp_path / "weights.pth")
    adapted = model_of("timm/test_vit", {"lora": {"targets": ["qkv"]}}, weights=str(tmp_path / "weights.pth")).eval()
    images = images_for("timm/test_vit")
    with torch.no_grad():
        assert torch.allclose(adapted.features(images), plain.features(images), atol=1e-6)
    names = [name for name, parameter in adapted.backbone.named_parameters() if parameter.requires_grad]
    assert len(names) == 2 * 6
    assert all(".attn.qkv.lora_" in name for name in names)


@needs_peft
@pytest.mark.parametrize("backbone", ["vit_b_32", "timm/test_vit", "swin_t"])
def test_every_adapter_takes_part(backbone: str) -> None:
    # torchvision's attention modules use weights of layers that they never call.
    size = {"timm/test_vit": 160, "swin_t": 64}.get(backbone, 32)
    settings = {"pooling": "average", "weights": None, "train": "lora: {rank: 1}", "embedding_dim": 2}
    model = build_model(ModelSettings(backbone=backbone, **settings), image_size=size)
    model(torch.randn(2, 3, size, size)).sum().backward()
    adapters = {name: p.grad for name, p in model.named_parameters() if "lora_B" in name}
    assert len(adapters) > 6
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in adapters.values())


@needs_peft
def test_adapters_are_exported(tmp_path: Path) -> None:
    model = model_of("timm/test_vit", "lora: {rank: 2}")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    path = export_model(model, tmp_path / "model.pt", preprocessing=Preprocessing(resize=160, crop=160))
    images = images_for("timm/test_vit")
    with torch.no_grad():
        assert torch.allclose(load_exported(path)(images), model.eval()(images), atol=1e-4)


@pytest.mark.parametrize("backbone", SIZE)
def test_rates_fall_block_by_block_towards_the_input(backbone: str) -> None:
    model = model_of(backbone, "full")
    optimizer = build_optimizer(OptimizerSettings(lr=1.0, layer_decay=0.5), model, torch.nn.Identity())
    rates = {id(parameter): group["base_lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert len(rates) == len(list(model.parameters())) - (model.settings.pooling == "gem")
    names = dict(model.backbone.named_parameters())
    first, last = next(iter(names)), next(name for name in names if name.startswith(LAST[backbone]))
    assert rates[id(model.embedding.weight)] == 1.0
    assert rates[id(names[last])] == 0.5
    assert rates[id(names[first])] == 0.5 ** BLOCKS[backbone]
    assert len({rates[id(parameter)] for parameter in names.values()}) == BLOCKS[backbone]


def test_layer_decay_goes_with_frozen_blocks_and_head_warm_up() -> None:
    model = model_of("resnet18", {"last_blocks": 2})
    model.set_backbone_trainable(False)
    optimizer = build_optimizer(OptimizerSettings(lr=1.0, layer_decay=0.5), model, torch.nn.Identity())
    backbone = [group for group in optimizer.param_groups if group["name"] == "backbone"]
    assert [group["base_lr"] for group in backbone] == [0.25, 0.5]
    model.set_backbone_trainable(True)
    assert {name.split(".")[1] for name, p in model.named_parameters() if p.requires_grad and "backbone" in name} == {
        "layer4"
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": "heads"}, "expected full, head, {last_blocks: N}"),
        ({"train": {"last_block": 2}}, "expected full, head, {last_blocks: N}"),
        ({"train": {"last_blocks": 0}}, "greater than 0"),
        ({"train": {"lora": {"ranks": 2}}}, "ranks"),
        ({"train": "lora: {rank: -1}"}, "greater than 0"),
        ({"train": "head", "gem_trainable": True}, "gem_trainable: false"),
    ],
)
def test_bad_ways_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelSettings(backbone="resnet18", weights=None, **options)


@needs_peft
def test_what_a_network_does_not_have_is_one_clear_error() -> None:
    with pytest.raises(ConfigError, match="resnet18 has 9 blocks; take fewer"):
        model_of("resnet18", {"last_blocks": 9})
    with pytest.raises(ConfigError, match=r"named 'qkv'; the last parts of their names are 0, conv1, conv2"):
        model_of("resnet18", {"lora": {"targets": ["qkv"]}})


def test_ways_may_be_written_as_text_for_a_choice() -> None:
    tree = {"dataset": {"name": "cub200"}, "model": {"backbone": "resnet18", "train": "last_blocks: 2"}}
    trial = TrialSettings.model_validate(tree)
    assert trial.tree()["model"]["train"] == "last_blocks: 2"
    assert TrialSettings.model_validate(trial.tree()) == trial
    assert trial.model.training == ModelSettings(backbone="resnet18", train={"last_blocks": 2}).training
