"""Parts of transformers, and of other models: their self-attentions, and the blocks that they consist of, by name."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

# What queries, keys and values come from, where each has a layer of its own.
_PROJECTIONS = (("q_proj", "k_proj", "v_proj"), ("query", "key", "value"))
_HEADS = ("num_attention_heads", "num_heads")
# Parts of a model by which its attention is more than the softmax of queries times keys.
_FURTHER = ("relative_position", "rope", "rotary", "q_norm", "k_norm")


@dataclass(frozen=True)
class SelfAttention:
    """The self-attention of one block.

    Args:
        name: The name of the module.
        query: The name of the layer whose output are the queries.
        key: Likewise the keys.
        value: Likewise the values.
        heads: How many heads it has.
        width: What all of the widths of queries, keys and values are a multiple of; usually each of them.
        further: What changes its attention beside queries and keys, by name; empty if nothing does.
    """

    name: str
    query: str
    key: str
    value: str
    heads: int
    width: int
    further: str = ""

    @property
    def projections(self) -> tuple[str, str, str]:
        """The layers whose outputs are queries, keys and values."""
        return self.query, self.key, self.value


def self_attentions(model: nn.Module, *, of: str, plain: bool = False) -> list[SelfAttention]:
    """Return the self-attentions of a model, from its input to its output.

    Args:
        model: The model, in any mode.
        of: "student" or "teacher", for messages.
        plain: Whether the attention of the last has to be the softmax of queries times keys alone.

    Raises:
        ValueError: If there are none whose queries, keys and values come from layers of their own, or of the kind.
    """
    # A bias for positions or a rotation may lie outside of the attention that it changes.
    names = (*(name for name, _ in model.named_modules()), *(name for name, _ in model.named_parameters()))
    further = next((name for name in names if any(word in name for word in _FURTHER)), "")
    found = []
    for name, module in model.named_modules():
        for parts in _PROJECTIONS:
            layers = [dict(module.named_children()).get(part) for part in parts]
            widths = [width for layer in layers if isinstance(width := getattr(layer, "out_features", None), int)]
            heads = _heads(module)
            if len(widths) == len(parts) and heads is not None:
                query, key, value = (f"{name}.{part}" for part in parts)
                found.append(SelfAttention(name, query, key, value, heads, math.gcd(*widths), further))
    if not found:
        raise ValueError(
            f"the {of} {type(model).__name__} has no self-attention whose queries, keys and values come from layers of "
            f"their own, named {' or '.join('/'.join(parts) for parts in _PROJECTIONS)}. Of a CNN, AttentionTransfer "
            "compares where its maps respond, and ActivationBoundary, Hint or HiddenStates compare any two layers."
        )
    if plain and found[-1].further:
        raise ValueError(
            f"the attention of {found[-1].name!r} of the {of} is changed by {found[-1].further!r}, which the outputs "
            "of its layers do not show; compare relations in its place, minilm(student, teacher, version=2)"
        )
    return found


def blocks(model: nn.Module) -> list[str]:
    """Return the names of the blocks that a model consists of one after another, or of the last ones of its stages.

    They are in the outermost list of modules that has the most weights: the layers of a ViT, the stages of a Swin or a
    ResNet, the blocks of a MobileNet.

    Args:
        model: The model, in any mode.

    Raises:
        ValueError: If it has no such list.
    """
    lists = {name: module for name, module in model.named_modules() if _is_list_of_blocks(module)}
    outermost = {
        name: module for name, module in lists.items() if not any(name.startswith(f"{other}.") for other in lists)
    }
    if not outermost:
        raise ValueError(
            f"{type(model).__name__} has no list of blocks or stages; name the layers, from the first to the last"
        )
    weights = {name: sum(part.numel() for part in module.parameters()) for name, module in outermost.items()}
    name = max(weights, key=lambda name: weights[name])
    return [_called(f"{name}.{number}", block) for number, (_, block) in enumerate(outermost[name].named_children())]


def _heads(module: nn.Module) -> int | None:
    given = (vars(module).get(name) for name in _HEADS)
    return next((heads for heads in given if isinstance(heads, int)), None)


def _is_list_of_blocks(module: nn.Module) -> bool:
    if not isinstance(module, (nn.ModuleList, nn.Sequential)) or len(module) < 2:
        return False
    return all(any(True for _ in block.children()) for block in module)


def _called(name: str, block: nn.Module) -> str:
    """Return the name of a block, or of the last one in it where it is a stage with a list of them.

    Stages may give several tensors, or those behind a change of the grid.
    """
    lists = {"": block, **dict(block.named_children())}
    for own, inner in lists.items():
        if isinstance(inner, nn.ModuleList) and len(inner) and any(True for _ in inner[-1].children()):
            return _called(f"{name}.{own}.{len(inner) - 1}".replace("..", "."), inner[-1])
    return name
