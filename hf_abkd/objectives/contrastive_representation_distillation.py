"""Contrastive representation distillation: which teacher's answer belongs to which of the student's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from hf_abkd.data.draws import Draws, number_of
from hf_abkd.layers.connection import Connection, Kind, Side
from hf_abkd.layers.embedding import Embedding
from hf_abkd.layers.memory_bank import MemoryBank
from hf_abkd.layers.processes import gathered, summed
from hf_abkd.objectives.objective import Known, Objective, Pairs
from hf_abkd.settings import number, whole_number

_BATCH = number_of("batches of a memory") | 1


class ContrastiveRepresentationDistillation(Objective):
    """Tell what the teacher says of the same image from what it says of others.

    Both models' features are mapped to vectors of length 1 by linear maps that are trained with the student, the
    teacher's too. A memory holds the vectors that both models last gave of each image. The student's vector of an image
    is compared with the teacher's in the memory, of the same image and of many others, and the teacher's with the
    student's; each comparison is a guess whether the two are of one image, whose log-loss is minimised.

    The memory and the maps are saved with the student's connectors and are no part of the student. All processes have
    the same memory.

    Requirements: one tensor of each model, usually the input of the classifier; ids of the images, as `ImageTransform`
        gives them, and a training set whose length is known (or `samples`). Labels are used where there are some:
        images of the same class are then no others. A cached teacher can be used: its values are compared.
    Relations: `KnowledgeDistillation` compares logits, image by image; the published results have both.
    Paper: Tian, Krishnan and Isola, "Contrastive Representation Distillation", ICLR 2020,
        https://huggingface.co/papers/1910.10699 (`temperature` is its tau, `negatives` its N; the weight of the term
        beside the labels is 0.8 there, and 1 for knowledge distillation where that is added).
    Shapes: student, teacher (N, D), the mapped features; sample_ids (N,), int64; labels (N,), -100 where a sample has
        none; returns (). Summed over the two comparisons and over the images they are made with, and averaged over
        samples, as published.
    Differs from the paper: its formula divides e^(s t / tau) by nothing before it is weighed against N / M, M the
        images of the training set; `normalizer=1.0` is that. The authors' code divides by M times the mean of the
        first batch, with which the published numbers were made, and so does this. Differs from the authors' code: the
        mean is over both classes of pairs and all processes; other images are drawn by a hash of image and step, so
        that a run does not depend on the number of processes; an image that is twice in a batch counts once in the
        memory; the logarithms are exact, where they add 1e-7; a map is averaged over the image before it is mapped.

    Args:
        features: The width of the vectors.
        negatives: With how many other images each is compared.
        temperature: What the products of vectors are divided by.
        momentum: The share that a vector of the memory keeps when the image is seen again.
        other_classes: Whether images of the same class are no others, where labels are known.
        normalizer: What e^(s t / tau) is divided by; None measures it on the first batch.
        samples: How many images the training set has; None asks the run, which does not know it of a stream.
        seed: The seed of the draws; None is that of the run.

    Raises:
        ValueError: If a setting is out of range, or the number of images is neither known nor given.
        RuntimeError: If a batch comes before `begin`.

    Example:
        >>> import torch
        >>> from hf_abkd.objectives.objective import Known
        >>> from hf_abkd.objectives import ContrastiveRepresentationDistillation
        >>> objective = ContrastiveRepresentationDistillation(features=8, negatives=16)
        >>> objective.begin(Known(samples=100))
        >>> objective(torch.randn(4, 8), torch.randn(4, 8), sample_ids=torch.arange(4)).shape
        torch.Size([])
    """

    needs: ClassVar[AbstractSet[str]] = frozenset({"teacher", "sample_ids"})
    takes: ClassVar[AbstractSet[str]] = frozenset({"labels"})
    asks: ClassVar[AbstractSet[str]] = frozenset({"samples"})
    trains: ClassVar[bool] = True
    pairs: ClassVar[Pairs] = "head"
    published_weight: float = 0.8
    exchanges: ClassVar[bool] = True
    per_sample: ClassVar[bool] = False
    follows: ClassVar[Mapping[str, str]] = {"seed": "seed"}
    citation: ClassVar[str] = """@inproceedings{tian2020contrastive,
  title     = {Contrastive Representation Distillation},
  author    = {Tian, Yonglong and Krishnan, Dilip and Isola, Phillip},
  booktitle = {International Conference on Learning Representations},
  year      = {2020},
  url       = {https://arxiv.org/abs/1910.10699}
}"""

    def __init__(
        self,
        *,
        features: int = 128,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        other_classes: bool = True,
        normalizer: float | None = None,
        samples: int | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.features = whole_number("features", features, least=1)
        self.negatives = whole_number("negatives", negatives, least=1)
        self.temperature = number("temperature", temperature, above=0)
        self.momentum = number("momentum", momentum, least=0, below=1)
        self.other_classes = other_classes
        self.normalizer = None if normalizer is None else number("normalizer", normalizer, above=0)
        self.samples = None if samples is None else whole_number("samples", samples, least=2)
        self.seed = None if seed is None else whole_number("seed", seed)
        self.memory: MemoryBank | None = None
        self._key = 0
        # How many batches came, and by what the powers are divided; 0 before that was measured.
        self.batches: Tensor
        self.normalizers: Tensor
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self.register_buffer("normalizers", torch.zeros(2))

    def connect(self, student: Sequence[Side], teacher: Sequence[Side], kind: Kind) -> Connection:
        """Propose a linear map to vectors for each of the two models.

        Raises:
            ValueError: If another kind is asked for.
        """
        if kind != "auto":
            raise ValueError(
                f"ContrastiveRepresentationDistillation trains maps of its own; connector={kind!r} has no use"
            )
        ours, theirs = (Embedding(side, self.features) for side in (student[0], teacher[0]))
        return Connection(ours, theirs, f"linear to {self.features}, both models")

    def begin(self, known: Known) -> None:
        """Make the memory, with a row for each image."""
        samples = known.samples if self.samples is None else self.samples
        if samples is None:
            raise ValueError(
                "the memory of ContrastiveRepresentationDistillation has a row for each image, and the length of the "
                "training set is not known, as of a stream. Say how many different images it gives: samples=..."
            )
        if samples < 2:
            raise ValueError(f"each image is compared with others, and the training set has {samples}")
        self.memory = MemoryBank(samples, known.targets[0][1] if known.targets else self.features)
        self._key = number_of("negatives", self.seed)

    def forward(self, student: Tensor, teacher: Tensor, *, sample_ids: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the log-losses of both comparisons, averaged over samples, shape ()."""
        if self.memory is None:
            raise RuntimeError("there is no memory yet: call `begin`, as a run does before its first step")
        memory, remembers = self.memory, self.training
        classes = labels if self.other_classes else None
        everyone, own = gathered(sample_ids) if remembers else (sample_ids, 0)
        rows = memory.find(everyone, remembers=remembers)
        ours, theirs = functional.normalize(student, dim=1), functional.normalize(teacher, dim=1)
        if classes is not None and remembers:
            memory.classes.index_copy_(0, rows, gathered(classes)[0])
        mine = rows[own : own + len(sample_ids)]
        draws = Draws(sample_ids + self._key + self.batches * _BATCH)
        others, there_are = memory.others(mine, classes, draws.uniform(self.negatives))
        compared = torch.cat([mine[:, None], others], 1)
        values = [
            self._contrast(side, vectors, memory_of, compared, there_are)
            for side, (vectors, memory_of) in enumerate(((ours, memory.teacher), (theirs, memory.student)))
        ]
        if remembers:
            memory.update(rows, gathered(ours)[0], gathered(theirs)[0], None, self.momentum)
            self.batches += 1
        return torch.stack(values).sum() / max(len(student), 1)

    def _contrast(self, side: int, vectors: Tensor, memory: Tensor, compared: Tensor, there_are: Tensor) -> Tensor:
        """Return the log-loss of telling the first of some rows of a memory from the others, summed over samples, ().

        Shapes: vectors (N, D); memory (M, D); compared (N, 1 + K); there_are (N,).
        """
        # With every row, and not a copy of D numbers for each that is compared; what the backward pass reads must not
        # be the memory itself, which moves before.
        products = (vectors @ memory.to(vectors.dtype, copy=True).T / self.temperature).gather(1, compared)
        odds = products - self._log_normalizer(side, products) - math.log(self.negatives / len(memory))
        same, different = odds[:, 0], odds[:, 1:]
        return -functional.logsigmoid(same).sum() - (functional.logsigmoid(-different).sum(1) * there_are).sum()

    @torch.no_grad()
    def _log_normalizer(self, side: int, products: Tensor) -> Tensor:
        """Return the logarithm of what the powers are divided by, (); measured on this batch if on none before."""
        if self.normalizer is not None:
            return torch.tensor(math.log(self.normalizer), dtype=products.dtype, device=products.device)
        powers = products.exp()
        total = torch.stack([powers.sum(), powers.new_tensor(float(powers.numel()))])
        total = summed(total) if self.training else total
        rows = len(self.memory or ())
        measured = torch.where(
            self.normalizers[side] > 0, self.normalizers[side], rows * total[0] / total[1].clamp(min=1)
        )
        if self.training:
            self.normalizers[side] = measured
        return measured.to(products.dtype).log()

    def extra_repr(self) -> str:
        """Show the settings in `repr`, logs and model cards."""
        return (
            f"features={self.features}, negatives={self.negatives}, temperature={self.temperature}, "
            f"momentum={self.momentum}, other_classes={self.other_classes}, normalizer={self.normalizer}"
        )
