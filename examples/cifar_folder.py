"""A folder with one of the CIFAR networks: its configuration, its weights and its image processor.

Seconds on any CPU, by the file that holds the networks, as its copy is what the folder brings along:

    python examples/cifar_models.py --output_dir cifar-resnet56 --depth 56 --weights model.safetensors
    python examples/cifar_models.py --output_dir wrn-16-2 --family wide_resnet --depth 16 --widen_factor 2
    python examples/cifar_models.py --output_dir resnet20 --depth 20 --config_only
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from cifar_models import FAMILIES, CifarResNetConfig, CifarWideResNetConfig
from cifar_weights import cifar_processor, load_weights
from transformers import HfArgumentParser


@dataclass
class Arguments:
    """What the command line understands."""

    output_dir: str = field(metadata={"help": "Folder to write."})
    depth: int = field(metadata={"help": "6n + 2 for a resnet, 6n + 4 for a wide_resnet."})
    family: Literal["resnet", "wide_resnet"] = field(default="resnet", metadata={"help": "Which network."})
    widen_factor: int | None = field(default=None, metadata={"help": "Width of a wide_resnet; 2 when not given."})
    weights: str | None = field(
        default=None, metadata={"help": "A .safetensors file; without it the weights are fresh."}
    )
    seed: int = field(default=42, metadata={"help": "Seed of fresh weights."})
    config_only: bool = field(default=False, metadata={"help": "Write no weights."})


def build_config(args: Arguments) -> CifarResNetConfig | CifarWideResNetConfig:
    """Return the configuration that the command line asks for.

    Raises:
        ValueError: If a resnet is given a widen factor, or the configuration refuses a value.
    """
    if args.family == "wide_resnet":
        width = {} if args.widen_factor is None else {"widen_factor": args.widen_factor}
        return CifarWideResNetConfig(depth=args.depth, **width)
    if args.widen_factor is not None:
        raise ValueError("--widen_factor is for --family wide_resnet; a resnet has fixed widths")
    return CifarResNetConfig(depth=args.depth)


def main() -> None:
    """Write the folder that the command line asks for."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    if args.config_only and args.weights is not None:
        raise ValueError("--config_only writes no weights: leave out --weights or --config_only")
    config = build_config(args)
    _, model_class = FAMILIES[args.family]
    if args.config_only:
        # What model.save_pretrained would have written, so that AutoModel can build the network from the folder.
        config.architectures = [model_class.__name__]
        config.auto_map = {"AutoModelForImageClassification": f"{model_class.__module__}.{model_class.__name__}"}
        config.save_pretrained(args.output_dir)
    else:
        torch.manual_seed(args.seed)
        model = model_class(config)
        if args.weights is not None:
            load_weights(model, args.weights)
        model.save_pretrained(args.output_dir)
    cifar_processor(args.family, config.image_size).save_pretrained(args.output_dir)
