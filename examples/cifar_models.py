"""The two small networks that distillation papers use on CIFAR, as Hugging Face models.

`CifarResNetForImageClassification` is the CIFAR ResNet of He et al. 2016 (depth 6n + 2) and
`CifarWideResNetForImageClassification` the WRN of Zagoruyko and Komodakis 2016 (depth 6n + 4).
Importing this file makes both known to `AutoConfig` and `AutoModelForImageClassification`. `save_pretrained`
copies this file beside the weights, so that a process that never saw it loads the folder by
`AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)`.
The file therefore imports nothing but torch, transformers and the standard library.

Every activation is a module of its own that runs exactly once per forward pass and never in place: the
pre-activation that an activation boundary is about is the *input* of a module with a name, and
`boundary_layers(config)` lists the three names.

Command line, seconds on any CPU (a folder with the configuration, the weights and the image processor):

    python examples/cifar_models.py --output_dir cifar-resnet56 --depth 56 --weights model.safetensors
    python examples/cifar_models.py --output_dir wrn-16-2 --family wide_resnet --depth 16 --widen_factor 2
"""

import importlib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    HfArgumentParser,
    PreTrainedConfig,
    PreTrainedModel,
    ViTImageProcessorPil,
)
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention
from transformers.modeling_utils import load_state_dict
from transformers.utils import can_return_tuple

CIFAR10_LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

# Mean and standard deviation of pixels in [0, 1], as each family is used to be trained.
NORMALISATION = {
    "resnet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "wide_resnet": (
        tuple(mean / 255 for mean in (125.3, 123.0, 113.9)),
        tuple(std / 255 for std in (63.0, 62.1, 66.7)),
    ),
}


class CifarConfig(PreTrainedConfig):
    """What both families share; use one of the two classes below.

    With ten labels and no names given, the names are those of CIFAR-10.

    Args:
        num_channels: Channels of the input images.
        image_size: Side of the square images the network is meant for, in pixels; any size runs.
    """

    num_channels: int = 3
    image_size: int = 32

    def __post_init__(self, **kwargs: object) -> None:
        """Fill in the label names."""
        if self.id2label is None and kwargs.get("num_labels", len(CIFAR10_LABELS)) == len(CIFAR10_LABELS):
            self.id2label = dict(enumerate(CIFAR10_LABELS))
        if self.id2label is not None and self.label2id is None:
            self.label2id = {name: int(index) for index, name in self.id2label.items()}
        super().__post_init__(**kwargs)


class CifarResNetConfig(CifarConfig):
    """Configuration of a CIFAR ResNet.

    Args:
        depth: Number of layers with weights, 6n + 2 for three groups of n blocks.
        widths: Channels of the three groups; the stem has as many as the first.
        num_channels: Channels of the input images.
        image_size: Side of the square images, in pixels.

    Raises:
        ValueError: If `depth` is not 6n + 2, or `widths` are not three numbers each of which exceeds the one
            before by an even number (the shortcut pads the channels equally on both sides) or equals it.
    """

    model_type = "cifar_resnet"

    depth: int = 20
    widths: list[int] | tuple[int, ...] = (16, 32, 64)

    def __post_init__(self, **kwargs: object) -> None:
        """Check depth and widths."""
        if self.depth < 8 or self.depth % 6 != 2:
            raise ValueError(f"depth must be 6n + 2 (8, 14, 20, 32, 44, 56, 110, ...), got {self.depth}")
        self.widths = list(self.widths)  # as JSON gives it back
        steps = [after - before for before, after in zip(self.widths, self.widths[1:], strict=False)]
        if len(self.widths) != 3 or self.widths[0] < 1 or any(step < 0 or step % 2 for step in steps):
            raise ValueError(
                "widths must be three channel counts that never fall and rise by even numbers, such as "
                f"(16, 32, 64), got {tuple(self.widths)}"
            )
        super().__post_init__(**kwargs)

    def boundary_layers(self) -> list[str]:
        """Return the names of the three modules whose inputs are the groups' pre-activations."""
        last = (self.depth - 2) // 6 - 1
        return [f"layer{group}.{last}.relu2" for group in (1, 2, 3)]


class CifarWideResNetConfig(CifarConfig):
    """Configuration of a wide ResNet for CIFAR.

    Args:
        depth: Number of layers with weights, 6n + 4 for three groups of n blocks.
        widen_factor: The groups have 16, 32 and 64 times this many channels (k in the paper).
        dropout: Probability of dropping an input of the second convolution of a block.
        num_channels: Channels of the input images.
        image_size: Side of the square images, in pixels.

    Raises:
        ValueError: If `depth` is not 6n + 4, `widen_factor` is not positive or `dropout` is not in [0, 1).
    """

    model_type = "cifar_wide_resnet"

    depth: int = 16
    widen_factor: int = 2
    dropout: float = 0.0

    def __post_init__(self, **kwargs: object) -> None:
        """Check depth, width and dropout."""
        if self.depth < 10 or self.depth % 6 != 4:
            raise ValueError(f"depth must be 6n + 4 (10, 16, 22, 28, 40, ...), got {self.depth}")
        if self.widen_factor < 1:
            raise ValueError(f"widen_factor must be 1 or more, got {self.widen_factor}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        super().__post_init__(**kwargs)

    def boundary_layers(self) -> list[str]:
        """Return the names of the three modules whose inputs Heo et al. 2019 distil.

        A block ends in a sum without an activation; the boundary is behind the BatchNorm that *follows* each
        group, which belongs to the next group's first block or, after the last one, to the network itself.
        """
        return ["block2.0.relu1", "block3.0.relu1", "relu"]


def boundary_layers(config: CifarResNetConfig | CifarWideResNetConfig) -> list[str]:
    """Return the names of the activation modules at the end of the three groups, first group first.

    The *input* of each named module is the pre-activation feature of its group, shape (N, C, H, W). The same
    list is `model.config.boundary_layers()`, which is there too when the model was loaded as remote code.
    """
    return config.boundary_layers()


class CifarPreTrainedModel(PreTrainedModel):
    """What both families share: initialisation, loss and output."""

    main_input_name = "pixel_values"
    input_modalities = ("image",)
    # The loss is a mean over the batch and knows nothing of `num_items_in_batch`. Without this line `Trainer`
    # would infer the opposite from `**kwargs` and multiply gradients by the accumulation steps.
    accepts_loss_kwargs = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # `transformers.initialization` leaves alone what a checkpoint has filled, `torch.nn.init` would not.
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            init.zeros_(module.bias)
        else:
            super()._init_weights(module)  # BatchNorm: weight 1, bias 0, statistics reset

    def compute_logits(self, pixel_values: Tensor) -> Tensor:
        """Map images (N, num_channels, H, W) to logits (N, K)."""
        raise NotImplementedError(f"{type(self).__name__} must define compute_logits")

    @can_return_tuple
    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: object
    ) -> ImageClassifierOutputWithNoAttention:
        """Classify a batch of images.

        Args:
            pixel_values: Normalised images, shape (N, num_channels, H, W).
            labels: Class indices, shape (N,); with them the output has the mean cross-entropy, shape ().
            kwargs: What callers hand to every model, such as `num_items_in_batch`; not used.
        """
        logits = self.compute_logits(pixel_values)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """Return the 3×3 convolution without bias that both families are made of."""
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)


class CifarResNetBlock(nn.Module):
    """Two convolutions and a shortcut without parameters (option A of the paper)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = conv3x3(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu2 = nn.ReLU()
        self.stride = stride
        self.pad_channels = (out_channels - in_channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        if self.pad_channels:  # padding by nothing would copy it
            shortcut = F.pad(shortcut, (0, 0, 0, 0, self.pad_channels, self.pad_channels))
        return self.relu2(residual + shortcut)


class CifarResNetForImageClassification(CifarPreTrainedModel):
    """CIFAR ResNet: stem, three groups of blocks, global average pool, linear classifier.

    Paper: He et al., CVPR 2016, https://huggingface.co/papers/1512.03385
    """

    config_class = CifarResNetConfig
    # No module has this name, so no weight is ever renamed on loading; the default "" would match every key.
    base_model_prefix = "cifar_resnet"
    _no_split_modules: ClassVar[list[str]] = ["CifarResNetBlock"]

    def __init__(self, config: CifarResNetConfig) -> None:
        super().__init__(config)
        first, second, third = config.widths
        self.conv1 = conv3x3(config.num_channels, first)
        self.bn1 = nn.BatchNorm2d(first)
        self.relu = nn.ReLU()
        self.layer1 = self._group(first, first, stride=1)
        self.layer2 = self._group(first, second, stride=2)
        self.layer3 = self._group(second, third, stride=2)
        self.linear = nn.Linear(third, config.num_labels)
        self.post_init()

    def _group(self, in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
        blocks = [CifarResNetBlock(in_channels, out_channels, stride)]
        blocks += [CifarResNetBlock(out_channels, out_channels, 1) for _ in range((self.config.depth - 2) // 6 - 1)]
        return nn.Sequential(*blocks)

    def compute_logits(self, pixel_values: Tensor) -> Tensor:
        """Map images (N, num_channels, H, W) to logits (N, K)."""
        x = self.relu(self.bn1(self.conv1(pixel_values)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


class CifarWideResNetBlock(nn.Module):
    """BN-ReLU-convolution twice; a 1×1 convolution of the activated input where the channels change."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu2 = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.shortcut = (
            nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False) if in_channels != out_channels else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        activated = self.relu1(self.bn1(x))
        residual = self.conv2(self.dropout(self.relu2(self.bn2(self.conv1(activated)))))
        return residual + (x if self.shortcut is None else self.shortcut(activated))


class CifarWideResNetForImageClassification(CifarPreTrainedModel):
    """Wide ResNet: convolution, three groups of pre-activation blocks, BN-ReLU, pool, linear classifier.

    Paper: Zagoruyko and Komodakis, BMVC 2016, https://huggingface.co/papers/1605.07146
    """

    config_class = CifarWideResNetConfig
    base_model_prefix = "cifar_wide_resnet"
    _no_split_modules: ClassVar[list[str]] = ["CifarWideResNetBlock"]

    def __init__(self, config: CifarWideResNetConfig) -> None:
        super().__init__(config)
        first, second, third = (width * config.widen_factor for width in (16, 32, 64))
        self.conv1 = conv3x3(config.num_channels, 16)
        self.block1 = self._group(16, first, stride=1)
        self.block2 = self._group(first, second, stride=2)
        self.block3 = self._group(second, third, stride=2)
        self.bn1 = nn.BatchNorm2d(third)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(third, config.num_labels)
        self.post_init()

    def _group(self, in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
        dropout, later_blocks = self.config.dropout, (self.config.depth - 4) // 6 - 1
        blocks = [CifarWideResNetBlock(in_channels, out_channels, stride, dropout)]
        blocks += [CifarWideResNetBlock(out_channels, out_channels, 1, dropout) for _ in range(later_blocks)]
        return nn.Sequential(*blocks)

    def compute_logits(self, pixel_values: Tensor) -> Tensor:
        """Map images (N, num_channels, H, W) to logits (N, K)."""
        x = self.block3(self.block2(self.block1(self.conv1(pixel_values))))
        x = self.relu(self.bn1(x))
        return self.fc(x.mean((2, 3)))


FAMILIES = {
    "resnet": (CifarResNetConfig, CifarResNetForImageClassification),
    "wide_resnet": (CifarWideResNetConfig, CifarWideResNetForImageClassification),
}


def register() -> None:
    """Make both families known to the Auto classes; doing so twice is harmless.

    One process may hold this file several times: as the example, and as the copies that came with saved models
    and are imported as remote code. The last one imported answers for the model type, and `exist_ok` says that
    this is meant.
    """
    for config_class, model_class in FAMILIES.values():
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        AutoModelForImageClassification.register(config_class, model_class, exist_ok=True)
        # What follows makes save_pretrained copy this file and name the classes in config.json.
        config_class.register_for_auto_class()
        model_class.register_for_auto_class("AutoModelForImageClassification")


register()


def cifar_processor(family: str = "resnet", image_size: int = 32) -> ViTImageProcessorPil:
    """Return an image processor that needs Pillow and no torchvision.

    It resizes to a square (nothing happens to an image that has the size already), scales to [0, 1] and
    normalises.

    Args:
        family: Whose mean and standard deviation to use: "resnet" (those of ImageNet, as the public CIFAR
            ResNets were trained) or "wide_resnet" (those of CIFAR-10, as in the paper of the wide ResNet).
        image_size: Side of the output in pixels.

    Raises:
        ValueError: If `family` is neither.
    """
    if family not in NORMALISATION:
        raise ValueError(f"family must be one of {sorted(NORMALISATION)}, got {family!r}")
    mean, std = NORMALISATION[family]
    return ViTImageProcessorPil(
        size={"height": image_size, "width": image_size},
        rescale_factor=1 / 255,
        image_mean=list(mean),
        image_std=list(std),
    )


def load_weights(model: PreTrainedModel, path: str | Path) -> None:
    """Copy the tensors of a safetensors file into `model`, all of them and nothing else.

    Only BatchNorm's `num_batches_tracked` may be absent: it counts training steps and older files lack it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a safetensors file, or keys are missing or unexpected.
        RuntimeError: If a tensor has another shape; the message names it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path.resolve()}: give the path of a .safetensors file")
    if path.suffix != ".safetensors":
        raise ValueError(f"weights must be a .safetensors file, got {path.name}: a pickle is never loaded")
    weights = load_state_dict(path)
    expected = model.state_dict().keys()
    missing = [key for key in expected if key not in weights and not key.endswith(".num_batches_tracked")]
    unexpected = [key for key in weights if key not in expected]
    if missing or unexpected:
        raise ValueError(
            f"{path} does not fit {type(model).__name__} of depth {model.config.depth}: "
            f"{_count(missing, 'missing')}, {_count(unexpected, 'unexpected')}. "
            "Check the family, the depth and the widths."
        )
    model.load_state_dict(weights, strict=False)


def _count(keys: list[str], what: str) -> str:
    shown = ", ".join(keys[:8]) + (", ..." if len(keys) > 8 else "")
    return f"{len(keys)} {what} keys" + (f" ({shown})" if keys else "")


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
        config.auto_map = {"AutoModelForImageClassification": f"{__name__}.{model_class.__name__}"}
        config.save_pretrained(args.output_dir)
    else:
        torch.manual_seed(args.seed)
        model = model_class(config)
        if args.weights is not None:
            load_weights(model, args.weights)
        model.save_pretrained(args.output_dir)
    cifar_processor(args.family, config.image_size).save_pretrained(args.output_dir)


if __name__ == "__main__":
    # The code of classes in __main__ cannot be saved beside the weights, that of an imported module can. By name
    # and not by a statement: whoever loads a saved copy must have every module that an import statement names.
    importlib.import_module("cifar_models").main()
