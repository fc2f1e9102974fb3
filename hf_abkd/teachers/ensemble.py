"""An ensemble of teachers: one module that answers with the mean of what several say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from hf_abkd.models.class_names import in_order
from hf_abkd.models.label_spaces import id2label_of, match_labels
from hf_abkd.models.tasks.image_classification import IMAGE_CLASSIFICATION
from hf_abkd.models.usable import check_usable
from hf_abkd.settings import number
from hf_abkd.wording import listed


class TeacherEnsemble(nn.Module):
    """Several teachers as one, whose probabilities are the mean of theirs.

    Probabilities are averaged and not logits, so that a teacher of larger logits counts for no more; its own logits are
    the logarithms of the means. It is a teacher like any other, live or cached. Its layers are those of its teachers
    (`"teachers.0.layer1"`); left to itself, pairing takes those of the last one.

    Teachers that have the same classes in another order, by `config.id2label`, are brought to the order of the first.
    All of them see the same prepared images.

    Paper: Hinton et al., 2015, https://huggingface.co/papers/1503.02531; of born-again students Furlanello et al., ICML
        2018, https://huggingface.co/papers/1805.04770

    Args:
        teachers: The models, one or more.
        temperature: At which temperature probabilities are averaged. With that of a `KnowledgeDistillation`, the term
            compares with the mean of the softened probabilities; with 1, with the mean of the probabilities, softened.

    Attributes:
        teachers: The models.
        id2label: The names of the classes, those of the first teacher; None if it has none.

    Raises:
        TypeError: If there is no teacher, or one is no model that can teach.
        ValueError: If two teachers have other classes, only some of them name theirs, their weights have different
            types, or `temperature` is not positive and finite.

    Example:
        >>> import torch
        >>> from hf_abkd import TeacherEnsemble
        >>> class Sure(torch.nn.Module):
        ...     def __init__(self, *probabilities):
        ...         super().__init__()
        ...         self.logits = torch.tensor([probabilities]).log()
        ...     def forward(self, pixel_values):
        ...         return self.logits
        >>> ensemble = TeacherEnsemble([Sure(0.9, 0.1), Sure(0.3, 0.7)])
        >>> ensemble(torch.zeros(1, 3, 8, 8)).exp()
        tensor([[0.6000, 0.4000]])
    """

    def __init__(self, teachers: Sequence[nn.Module], *, temperature: float = 1.0) -> None:
        super().__init__()
        if isinstance(teachers, nn.Module) or not teachers:
            raise TypeError(f"an ensemble needs a list of one or more teachers, got {type(teachers).__name__}")
        for teacher in teachers:
            check_usable(teacher, "teacher")
            IMAGE_CLASSIFICATION.check_model(teacher, "teacher")
        _check_types(teachers)
        self.temperature = number("temperature", temperature, above=0)
        self.teachers = nn.ModuleList(teachers)
        self.id2label: Mapping[int, str] | None = id2label_of(teachers[0])
        orders = [_order(self.id2label, id2label_of(teacher), place) for place, teacher in enumerate(teachers)]
        self._orders: Tensor | None
        # Not saved: it follows from the names.
        self.register_buffer("_orders", torch.tensor(orders) if any(orders) else None, persistent=False)
        self._was_asked = False

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return the logarithms of the mean probabilities, times the temperature, (N, K) in float32.

        Raises:
            ValueError: If the teachers give other numbers of logits, or one gives probabilities.
        """
        answers = [self._answer(place, pixel_values) for place in range(len(self.teachers))]
        if len({answer.shape[1] for answer in answers}) > 1:
            raise ValueError(
                f"the teachers of an ensemble must have the same classes, and give {[a.shape[1] for a in answers]} "
                "logits for each image. Name the classes in `config.id2label` of each."
            )
        self._was_asked = True
        logarithms = torch.stack([functional.log_softmax(answer / self.temperature, dim=1) for answer in answers])
        return self.temperature * (logarithms.logsumexp(0) - math.log(len(answers)))

    def _answer(self, place: int, pixel_values: Tensor) -> Tensor:
        """Return the logits of one of the teachers, in the order of the first one's classes."""
        teacher = self.teachers[place]
        logits = IMAGE_CLASSIFICATION.prediction(teacher(pixel_values), teacher, "teacher").float()
        if not self._was_asked:
            # Once: it waits for the device.
            IMAGE_CLASSIFICATION.check_prediction(logits, teacher, "teacher")
        return logits if self._orders is None else logits.index_select(1, self._orders[place])

    def extra_repr(self) -> str:
        """Show the setting in `repr`."""
        return f"temperature={self.temperature}"


def _order(first: Mapping[int, str] | None, other: Mapping[int, str] | None, place: int) -> Sequence[int] | None:
    """Return which of a teacher's classes each of the first one's is; None where neither names any.

    Raises:
        ValueError: If they are other classes, or only one of the two names them.
    """
    ours, theirs = (None if names is None else in_order("teacher", names, len(names)) for names in (first, other))
    if ours is None and theirs is None:
        # How many there are, their answers tell.
        return None
    if ours is not None and theirs is not None:
        match = match_labels(first, other, len(ours), len(theirs))
        if match.kind in ("same", "permuted"):
            return match.teacher_classes
    shown = ["no names" if names is None else f"[{listed(names, 8, quoted=True)}]" for names in (ours, theirs)]
    raise ValueError(
        f"the teachers of an ensemble must have the same classes, in any order; the first has {shown[0]}, and number "
        f"{place + 1} has {shown[1]}. Write the names into `config.id2label` of each, or leave that teacher out."
    )


def _check_types(teachers: Sequence[nn.Module]) -> None:
    """Refuse weights of several types: all teachers are given images of one, that of the first."""
    types = [next((p.dtype for p in each.parameters() if p.is_floating_point()), None) for each in teachers]
    if len({each for each in types if each is not None}) > 1:
        raise ValueError(
            f"the teachers of an ensemble must have weights of one type, got {[str(each) for each in types]}; bring "
            "them to one, as by `teacher.float()`"
        )
