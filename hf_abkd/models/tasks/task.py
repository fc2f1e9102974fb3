"""What a task is: everything that the package assumes about the models, the data and the scores of one kind of work."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

#: The label of a row that has none; losses of torch and transformers leave it out.
NO_LABEL = -100


class Task(ABC):
    """One kind of work that a student and a teacher do, such as image classification.

    Code elsewhere asks the task instead of naming an input, an Auto class or the shape of a prediction. To add a task,
    write a subclass in a file beside this one with an instance of it at the end, set every attribute below, write
    every abstract method, and add what measures its predictions to `METRICS` in `hf_abkd.reports.metrics`.

    In the signatures, a `model` is a module that may have a `config`, and a `prediction` is the tensor that
    `prediction` returns, with one entry per sample along its first dimension.

    Attributes:
        name: The task's id on the Hub, which is also the pipeline tag of its models: "image-classification".
        noun: What a model of this task is called in a sentence, without an article: "image classifier".
        inputs: The name of the main input in a batch, for models that do not name it themselves.
        labels: The name of the labels in a batch.
        score: The name of the score by which a model is judged, as `METRICS` computes it: "accuracy".
        meanings: What each score means, by its name, for model cards.
        usage: Lines of Python that show a prediction on a model card, given `model`, `processor` and `image`.
        other_inputs: Model types that the Auto class knows but whose models take more or something else than the main
            input, and what that is: "takes ...".
    """

    name: ClassVar[str]
    noun: ClassVar[str]
    inputs: ClassVar[str]
    labels: ClassVar[str]
    score: ClassVar[str]
    meanings: ClassVar[Mapping[str, str]]
    usage: ClassVar[tuple[str, ...]]
    other_inputs: ClassVar[Mapping[str, str]] = {}

    # ---- Models ----

    @property
    @abstractmethod
    def auto_class(self) -> Any:
        """The Auto class that loads models of this task."""

    @abstractmethod
    def architectures(self, config: PreTrainedConfig) -> list[str]:
        """Return the names of the classes of transformers that do this task with such a config, the usual one first.

        The list is empty if transformers has none.
        """

    def check_model(self, model: nn.Module, role: str) -> None:
        """Refuse a model of transformers that does other work; a class of somebody else shows what it does.

        Args:
            model: The model.
            role: "student" or "teacher", for the error.

        Raises:
            TypeError: If its class is one of transformers, and not for this task.
        """
        kind = type(model)
        if isinstance(model, PreTrainedModel) and kind.__module__.startswith("transformers.models."):
            other = self.other_work(kind.__name__, model.config, getattr(model, "main_input_name", self.inputs))
            if other is None and (takes := self.other_inputs.get(model.config.model_type)) is not None:
                other = (
                    f"is a {kind.__name__}, which {takes}, and only models that take `{self.inputs}` can be distilled"
                )
            if other is not None:
                raise TypeError(f"the {role} {other}")

    def other_work(self, architecture: str, config: PreTrainedConfig, inputs: str | None = None) -> str | None:
        """Return what is wrong with a class of transformers that is not for this task; None for one that is.

        Args:
            architecture: The name of the class.
            config: The config of the model.
            inputs: The name of its main input, if that is known.
        """
        known = self.architectures(config)
        if architecture in known:
            return None
        takes = "" if inputs in (None, self.inputs) else f", which takes `{inputs}`"
        such = f" ({known[0]}, for example)" if known else ""
        return (
            f"is a {architecture}{takes}: it must be an {self.noun}{such}, which takes `{self.inputs}` and returns one "
            "logit for each class"
        )

    def inputs_of(self, model: nn.Module) -> str:
        """Return the name of the main input of a model: the task's if its `forward` has it, or else its own.

        Perceiver calls its main input "inputs", and takes "pixel_values" as image processors give them, too.
        """
        if self.inputs in inspect.signature(model.forward).parameters:
            return self.inputs
        name: str = getattr(model, "main_input_name", self.inputs)
        return name

    # ---- Classes ----

    @abstractmethod
    def classes(self, config: PreTrainedConfig) -> int:
        """Return how many classes a model with this config predicts."""

    @abstractmethod
    def class_names(self, model: object) -> Mapping[int, str] | None:
        """Return the names of the classes by their numbers, of a model or of a config; None if it has none."""

    @abstractmethod
    def name_classes(self, config: PreTrainedConfig, names: Sequence[str]) -> None:
        """Write the names of the classes, and with them their number, into a config."""

    def name_unnamed(self, config: PreTrainedConfig) -> None:
        """Give classes without names those that transformers makes up: it stores none for PVT (5.23)."""
        if self.class_names(config) is None:
            self.name_classes(config, [f"LABEL_{index}" for index in range(self.classes(config))])

    # ---- Batches and data sets ----

    @abstractmethod
    def check_inputs(self, model: nn.Module, role: str, inputs: Tensor) -> None:
        """Check that a model was made for the main input of a batch.

        Args:
            model: The model.
            role: "student" or "teacher", for the error.
            inputs: The main input.

        Raises:
            ValueError: If the model's config says otherwise.
        """

    @abstractmethod
    def unusual_inputs(self, teacher: nn.Module, inputs: Tensor) -> str | None:
        """Return a sentence if a teacher can take the main input of a batch but is not at its best on it, else None."""

    @abstractmethod
    def check_labels(self, config: PreTrainedConfig, features: Mapping[str, object]) -> None:
        """Check the labels of a data set against the classes that a student predicts.

        Args:
            config: The student's config.
            features: The columns of the data set (`dataset.features`), which may say nothing of classes.

        Raises:
            ValueError: If they cannot be the same classes.
        """

    @abstractmethod
    def check_truth(self, labels: Tensor, classes: int | None = None) -> None:
        """Check the labels of a batch.

        Args:
            labels: The labels.
            classes: How many classes there are; None leaves out what would have to wait for a device.

        Raises:
            ValueError: If they are not labels of this task.
        """

    # ---- Predictions ----

    @abstractmethod
    def prediction(self, output: Any, model: nn.Module, role: str) -> Tensor:
        """Return the prediction in what a model returned.

        Args:
            output: What the model returned.
            model: The model, for the error.
            role: "student" or "teacher", for the error.

        Raises:
            TypeError: If there is none.
        """

    @abstractmethod
    def check_prediction(self, prediction: Tensor, model: object, role: str) -> None:
        """Check that a prediction is what the losses take it for.

        Args:
            prediction: The prediction for some samples.
            model: The model that made it, or what was stored of one.
            role: "student" or "teacher", for the error.

        Raises:
            ValueError: If the model does another task, or what it returns is in another form.
        """

    @abstractmethod
    def loss(self, prediction: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        """Return the loss with the labels that an evaluation reports, shape ()."""

    @abstractmethod
    def right(self, prediction: Tensor, labels: Tensor) -> Tensor:
        """Return how right the prediction for each sample is, (N,): a bool, or a share in [0, 1]."""

    @abstractmethod
    def answers(self, prediction: Tensor) -> Tensor:
        """Return the number of the class that each prediction names, int64, (N,)."""

    @abstractmethod
    def confidences(self, prediction: Tensor) -> Tensor:
        """Return the probability that each prediction gives its answer, in [0, 1], (N,)."""

    @abstractmethod
    def chance(self, labels: Tensor) -> float:
        """Return the mean of `right` for whoever gives the same commonest answer for every sample, in [0, 1]."""

    @abstractmethod
    def agreement(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return how much two predictions agree on each sample, (N,): a bool, or a share in [0, 1]."""
