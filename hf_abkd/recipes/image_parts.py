"""Images as a recipe writes them: given ones, those of another domain, or such as are made out of the teacher."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field, create_model

from hf_abkd.data.arguments import DataArguments
from hf_abkd.methods import DeepInversion, synthesize
from hf_abkd.recipes.annotations import or_nothing
from hf_abkd.recipes.derived import argument_texts, part_of
from hf_abkd.recipes.part import Part, built
from hf_abkd.recipes.values import known


class _SynthesizeBase(Part):
    """Images that are made out of the teacher before training, in the place of real ones."""

    preset: Annotated[
        Literal["cifar10", "imagenet"], Field(description="The settings to begin with, the paper's for one data set.")
    ] = "cifar10"
    settings: Any = None

    def check(self) -> None:
        """Refuse settings that are not possible."""
        self.deep_inversion()

    def build(self) -> dict[str, Any]:
        """Return the arguments of `synthesize` beside the teacher, its processor and the folder."""
        return {**self.settings_of_call(), "settings": self.deep_inversion()}

    def settings_of_call(self) -> dict[str, Any]:
        """Return what was given beside the settings of DeepInversion."""
        given = self.model_fields_set - {"preset", "settings"}
        return {name: built(getattr(self, name)) for name in given}

    def deep_inversion(self) -> DeepInversion:
        """Return the preset with what changes in it."""
        presets = {"cifar10": DeepInversion.cifar10, "imagenet": DeepInversion.imagenet}
        changes = {} if self.settings is None else self.settings.given()
        return presets[self.preset](**changes)


@cache
def data_part() -> type[Part]:
    """Return the schema of the images."""
    target = part_of(DataArguments, known, name="TargetImages")
    base = create_model(
        "DataFields",
        __base__=Part,
        synthesize=(
            or_nothing(_synthesize_part()),
            Field(default=None, description="Make the training images out of the teacher."),
        ),
        target_domain=(
            or_nothing(target),
            Field(default=None, description="Images of a domain to adapt to; their labels are read to report only."),
        ),
    )
    return part_of(DataArguments, known, name="Images", base=base)


def _synthesize_part() -> type[Part]:
    texts = argument_texts(synthesize)
    given = {"num_images": (int, ...), "batch_size": (int, 256), "classes": (list[int | str] | None, None)}
    given |= {"seed": (int, 0), "previews": (int, 64)}
    fields: dict[str, Any] = {
        name: (kind, Field(default=default, description=texts[name])) for name, (kind, default) in given.items()
    }
    settings = (or_nothing(known(DeepInversion)), Field(default=None, description=texts["settings"]))
    return create_model("Synthesize", __base__=_SynthesizeBase, settings=settings, **fields)
