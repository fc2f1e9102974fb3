"""Published form: how a student and its image processor are loaded by others, found out before anything is trained."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel
from transformers.dynamic_module_utils import get_imports, get_relative_import_files

from hf_abkd.data.reloading import backend_of
from hf_abkd.models.saving import is_of_timm
from hf_abkd.models.tasks.task import Task
from hf_abkd.training.publishing.published_processor import LIBRARY, brings_code, check_processor
from hf_abkd.wording import listed


@dataclass(frozen=True)
class PublishedForm:
    """How a student that was saved is loaded.

    Args:
        own_class: The class to load it by, as "module.Class"; None for the Auto class of the task.
        problem: Why the Auto class cannot load it, and what to do about it; None if it can.
        needs_code: Whether the student comes with code of its own.
        has_processor: Whether an image processor lies beside it.
        processor_needs_code: Whether the processor comes with code of its own.
        backend: Which library resizes the processor's images, if it tells.
        packages: What has to be installed beside transformers.
    """

    own_class: str | None = None
    problem: str | None = None
    needs_code: bool = False
    has_processor: bool = False
    processor_needs_code: bool = False
    backend: str | None = None
    packages: tuple[str, ...] = ()


def published_form(student: PreTrainedModel, processor: object, task: Task) -> PublishedForm:
    """Return how a student and its processor will be loaded.

    Raises:
        TypeError: If the processor is no image processor.
        ValueError: If what is saved of the processor could not be loaded, or would prepare images otherwise.
    """
    kind = type(student)
    problem = auto_class_problem(student, task)
    if processor is not None:
        check_processor(student, processor)
    timm = student.config.model_type == "timm_wrapper" or is_of_timm(processor)
    return PublishedForm(
        own_class=None if problem is None else f"{kind.__module__}.{kind.__name__}",
        problem=problem,
        needs_code=problem is None and not kind.__module__.startswith(LIBRARY),
        has_processor=processor is not None,
        processor_needs_code=brings_code(processor),
        backend=backend_of(processor),
        packages=("timm", "torchvision") if timm else (),
    )


def auto_class_problem(student: PreTrainedModel, task: Task) -> str | None:
    """Return why the Auto class of a task cannot load a student from where it is saved, and what to do; None if it can.

    Args:
        student: The student.
        task: What it does.
    """
    auto, kind, config = task.auto_class.__name__, type(student), type(student.config)
    if kind.__module__.startswith(LIBRARY):
        if kind.__name__ in task.architectures(student.config):
            return None
        return f"it makes another class than {kind.__name__} of a {config.__name__}"
    own = [one for one in (kind, config) if not one.__module__.startswith(LIBRARY)]
    registered = {kind: kind._auto_class == auto, config: config._auto_class is not None}
    calls = {
        kind: f'{kind.__name__}.register_for_auto_class("{auto}")',
        config: f"{config.__name__}.register_for_auto_class()",
    }
    if inside := [one.__name__ for one in own if one.__module__ == "__main__"]:
        return (
            f"{' and '.join(inside)} stands in a script or a notebook, whose code is not saved. Move it to a file of "
            f"its own, import it from there, and call {' and '.join(calls[one] for one in own)} before training"
        )
    if missing := [calls[one] for one in own if not registered[one]]:
        return f"it does not know {kind.__name__}. Call {' and '.join(missing)} before training: its code is saved then"
    if left_out := sorted({name for one in own for name in _imports_beside(one)}):
        return (
            f"the code of {kind.__name__} imports {listed(left_out)} from beside its file, which is not saved with it. "
            "Put all of it into one file, or into a package in which files import each other as `from .name import ...`"
        )
    return None


def _imports_beside(kind: type) -> list[str]:
    """Return what the file of a class, and those it imports relatively, import absolutely from the same folder."""
    file = inspect.getfile(kind)
    folder = Path(file).parent
    names = {name for each in (file, *get_relative_import_files(file)) for name in get_imports(each)}
    return [name for name in names if (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file()]
