"""Image classification: pixels in, one logit for each class out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional
from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, AutoModelForImageClassification, PreTrainedConfig

from hf_abkd.models.expected_images import PIXELS, check_channels, other_size
from hf_abkd.models.label_spaces import id2label_of
from hf_abkd.models.outputs import logits_of
from hf_abkd.models.single_label import check_class_numbers, check_logits, check_problem
from hf_abkd.models.tasks.task import Task


class ImageClassification(Task):
    """Tell which class an image belongs to; a prediction is a tensor of logits, (N, K).

    Example:
        >>> import torch
        >>> from transformers import ResNetConfig
        >>> IMAGE_CLASSIFICATION.architectures(ResNetConfig())
        ['ResNetForImageClassification']
        >>> IMAGE_CLASSIFICATION.right(torch.tensor([[0.1, 2.0], [3.0, -1.0]]), torch.tensor([1, 1]))
        tensor([ True, False])
    """

    name = "image-classification"
    noun = "image classifier"
    inputs = PIXELS
    labels = "labels"
    score = "accuracy"
    meanings: ClassVar[Mapping[str, str]] = {
        "loss": "cross-entropy with the labels",
        "accuracy": "share of images whose class is predicted right",
        "teacher_accuracy": "share of images whose class the teacher predicts right",
        "chance_accuracy": "share of images of the commonest class",
        "teacher_agreement": "share of images for which student and teacher predict the same class",
    }
    usage = (
        'inputs = processor(image, return_tensors="pt")  # image: a PIL.Image',
        "logits = model(**inputs).logits",
        "print(model.config.id2label[logits.argmax(-1).item()])",
    )
    other_inputs: ClassVar[Mapping[str, str]] = {
        "imagegpt": "takes the colour clusters of pixels, `input_ids`",
        "shieldgemma2": "takes a text beside the image, `input_ids`",
        "siglip2": "takes patches with their `spatial_shapes`",
    }

    @property
    def auto_class(self) -> Any:
        """`AutoModelForImageClassification`."""
        return AutoModelForImageClassification

    def architectures(self, config: PreTrainedConfig) -> list[str]:
        """Return the names of the image classifiers that transformers has for a config; several for DeiT and LeViT."""
        if type(config) not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
            return []
        known = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[type(config)]
        return [each.__name__ for each in (known if isinstance(known, (list, tuple)) else [known])]

    def classes(self, config: PreTrainedConfig) -> int:
        """Return `config.num_labels`."""
        count: int = config.num_labels
        return count

    def class_names(self, model: object) -> Mapping[int, str] | None:
        """Return the `id2label` of a model's config, or of a config."""
        return id2label_of(model)

    def name_classes(self, config: PreTrainedConfig, names: Sequence[str]) -> None:
        """Set `config.id2label` and `config.label2id`."""
        config.id2label = dict(enumerate(names))
        config.label2id = {name: index for index, name in enumerate(names)}
        # timm's config keeps the names once more, and only these are written.
        if config.model_type == "timm_wrapper":
            config.label_names = list(names)
        # Of most families it is the number of names; PVT's config has it as a setting of its own.
        if config.num_labels != len(names):
            config.num_labels = len(names)

    def check_inputs(self, model: nn.Module, role: str, inputs: Tensor) -> None:
        """Compare the channels of images (N, C, H, W) with `config.num_channels`."""
        check_channels(model, role, inputs)

    def unusual_inputs(self, teacher: nn.Module, inputs: Tensor) -> str | None:
        """Compare the size of images (N, C, H, W) with `config.image_size`."""
        return other_size(teacher, inputs)

    def check_labels(self, config: PreTrainedConfig, features: Mapping[str, object]) -> None:
        """Compare the `ClassLabel` columns of a data set with `config.num_labels`."""
        # Whoever has a data set has imported this already; nobody else should wait for it.
        from datasets import ClassLabel

        classes = {name: feature.num_classes for name, feature in features.items() if isinstance(feature, ClassLabel)}
        # Several columns may hold classes, coarse and fine ones; which of them a transform reads cannot be seen here.
        if classes and self.classes(config) not in classes.values():
            raise ValueError(
                f"the data set has the classes {classes} (column: how many), and the student {self.classes(config)}. "
                f"Load the student with num_labels={max(classes.values())}."
            )

    def check_truth(self, labels: Tensor, classes: int | None = None) -> None:
        """Refuse labels that are not one class number for each image, (N,), such as those of several classes."""
        check_class_numbers(labels, classes)

    def prediction(self, output: Any, model: nn.Module, role: str) -> Tensor:
        """Return the logits, (N, K); see `hf_abkd.models.outputs.logits_of`."""
        return logits_of(output, model, role)

    def check_prediction(self, prediction: Tensor, model: object, role: str) -> None:
        """Refuse models for several classes per image or for numbers, and probabilities in the place of logits."""
        check_problem(model, role)
        check_logits(prediction, model, role)

    def loss(self, prediction: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        """Return the mean cross-entropy of logits (N, K) in float32 with labels (N,).

        Raises:
            ValueError: If the labels are no class numbers.
        """
        self.check_truth(labels)
        return functional.cross_entropy(prediction.float(), labels, label_smoothing=label_smoothing)

    def right(self, prediction: Tensor, labels: Tensor) -> Tensor:
        """Return whether the largest logit is that of the label, bool, (N,)."""
        return prediction.argmax(1) == labels

    def answers(self, prediction: Tensor) -> Tensor:
        """Return the place of the largest logit, (N,)."""
        return prediction.argmax(1)

    def confidences(self, prediction: Tensor) -> Tensor:
        """Return the largest probability, (N,)."""
        return prediction.float().softmax(1).amax(1)

    def chance(self, labels: Tensor) -> float:
        """Return the share of the commonest class."""
        return (labels.bincount().max() / len(labels)).item()

    def agreement(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return whether the largest logits are of the same class, bool, (N,)."""
        return student.argmax(1) == teacher.argmax(1)


IMAGE_CLASSIFICATION = ImageClassification()
