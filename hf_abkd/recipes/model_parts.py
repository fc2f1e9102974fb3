"""Models as a recipe writes them: who teaches, and who learns."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from hf_abkd.models.smaller.factors import Factors
from hf_abkd.recipes.annotations import or_nothing
from hf_abkd.recipes.derived import part_of
from hf_abkd.recipes.part import Part, built
from hf_abkd.recipes.values import known
from hf_abkd.teachers.mean_source import MeanTeacher

Text = Annotated[str, Field(min_length=1)]
Mean: Any = or_nothing(part_of(MeanTeacher, known))
FromTeacher: Any = or_nothing(part_of(Factors, known, name="FromTeacher"))


class TeacherPart(Part):
    """Who teaches: a model, or the mean of the student itself."""

    model: Annotated[
        Text | None, Field(description="A model or a cache of its answers: a Hub id or a local folder.")
    ] = None
    revision: Annotated[Text, Field(description="Branch, tag or commit on the Hub.")] = "main"
    image_processor: Annotated[Text | None, Field(description="Its image processor, if not stored with it.")] = None
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], Field(description="The precision of its weights.")] = (
        "float32"
    )
    device_map: Annotated[
        Text | dict[str, str | int] | None,
        Field(description="Where its layers lie if it is too large for one device: auto, a device, or each by name."),
    ] = None
    bits: Annotated[
        Literal[8, 4] | None,
        Field(description="Hold the weights of its linear layers but the last one in so many bits (bitsandbytes)."),
    ] = None
    mean: Annotated[
        Mean,
        Field(description="The moving average of the student's own weights, in the place of a model."),
    ] = None

    def check(self) -> None:
        """Refuse a teacher that is two things, or a part of one.

        Raises:
            ValueError: If it is.
        """
        if self.mean is not None and self.model_fields_set - {"mean"}:
            raise ValueError("mean is the student's own average: leave model, revision and the rest out")
        if self.mean is None and self.model is None:
            raise ValueError("say who teaches: a model, or mean: {} for the average of the student itself")


class StudentPart(Part):
    """Who learns."""

    model: Annotated[
        Text | None,
        Field(description="A Hub id, a local folder with weights or, for random weights, with a config alone."),
    ] = None
    from_teacher: Annotated[
        FromTeacher,
        Field(description="Which share of the teacher's blocks and channels it is made of, in the place of a model."),
    ] = None
    revision: Annotated[Text, Field(description="Branch, tag or commit on the Hub.")] = "main"
    image_processor: Annotated[Text | None, Field(description="The image processor. Default: its own.")] = None
    ignore_mismatched_sizes: Annotated[
        bool, Field(description="Replace its head if that has another number of classes.")
    ] = False

    def check(self) -> None:
        """Refuse a student that is two things, a part of one, or its teacher.

        Raises:
            ValueError: If it is.
        """
        if self.from_teacher is None:
            if self.model is None:
                raise ValueError("say who learns: a model, or from_teacher: {depth: 0.5, width: 0.5}")
            return
        if self.model_fields_set - {"from_teacher", "image_processor"}:
            raise ValueError(
                "from_teacher makes the student of the teacher: leave model, revision and ignore_mismatched_sizes out"
            )
        built(self.from_teacher).check_smaller()
