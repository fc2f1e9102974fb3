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

Run as a script it writes such a folder with an image processor beside; the commands are in `cifar_folder.py`.
"""

import importlib
import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention
from transformers.utils import can_return_tuple

CIFAR10_LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


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


if __name__ == "__main__":
    # The code of classes in __main__ cannot be saved beside the weights, that of an imported module can. By name
    # and not by a statement: whoever loads a saved copy must have every module that an import statement names.
    importlib.import_module("cifar_folder").main()
