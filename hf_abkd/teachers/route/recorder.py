"""RouteRecorder: keep a teacher's weights on the way while it trains, and only those that will be used."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import save_model
from torch import nn
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_abkd.models import adapters
from hf_abkd.models.saving import save_student
from hf_abkd.models.weight_files import WEIGHTS_NAME
from hf_abkd.teachers.route.anchors import check_complete

_ANCHOR = re.compile(r"anchor-(\d+)")
_SCRATCH = ".recording-"


class RouteRecorder(TrainerCallback):
    """Record the weights of a training in equal intervals, the last ones included, as `anchor-STEP` folders.

    A callback of any `transformers.Trainer`. A folder holds the model and its processor, and nothing of the optimiser;
    it is put in place whole. A run that is resumed goes on with its route. With `load_best_model_at_end` the route
    ends with the weights of the best step, which are the teacher then. Of a model with LoRA the adapters are merged.

    Args:
        folder: Where to.
        count: How many anchors, the last one included.

    Raises:
        ValueError: If `count` is not possible or, when training begins, if the folder holds the route of another run,
            the run that is resumed did not record one, it is too short, or its weights are spread over processes.

    Example:
        >>> from hf_abkd import RouteRecorder
        >>> recorder = RouteRecorder("route", count=4)  # Trainer(..., callbacks=[recorder])
        >>> recorder.steps(1000)
        [250, 500, 750, 1000]
    """

    def __init__(self, folder: str | os.PathLike[str], *, count: int = 4) -> None:
        if count < 2:
            raise ValueError(f"a route has at least 2 anchors, got count={count}")
        self.folder = Path(folder)
        self.count = count

    def steps(self, total: int) -> list[int]:
        """Return after which steps of a run of so many the weights are recorded."""
        return [round(number * total / self.count) for number in range(1, self.count + 1)]

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Check that the folder is that of this run."""
        if getattr(args, "fsdp", None) or getattr(args, "deepspeed", None):
            raise ValueError("a RouteRecorder needs the whole model in one process; record without FSDP and DeepSpeed")
        if state.max_steps < self.count:
            raise ValueError(f"a run of {state.max_steps} steps has no {self.count} anchors: lower `count`")
        held = self._held()
        planned = self.steps(state.max_steps)
        if state.global_step == 0 and held:
            raise ValueError(
                f"{self.folder} holds the route of another run: {[path.name for path in held.values()][:5]}. Record "
                "into another folder, or delete it."
            )
        done = [step for step in planned if step <= state.global_step]
        if missing := [step for step in done if step not in held]:
            raise ValueError(
                f"{self.folder} has no anchors of the steps {missing}, which the run that is resumed has behind it. "
                "Resume with the folder, `count` and length of that run, or record a new run."
            )
        for step in done:
            check_complete(held[step])
        if state.is_world_process_zero and self.folder.is_dir():
            for path in self.folder.glob(f"{_SCRATCH}*"):
                shutil.rmtree(path)
            # Where an earlier run was stopped, or of another length.
            for step in set(held) - set(planned):
                shutil.rmtree(held[step])

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        processing_class: Any = None,
        **_: Any,
    ) -> None:
        """Record, if it is time."""
        if state.is_world_process_zero and state.global_step in self.steps(state.max_steps):
            self._record(state.global_step, model, processing_class)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        processing_class: Any = None,
        **_: Any,
    ) -> None:
        """Let the route end with the weights that training ended with."""
        if not state.is_world_process_zero:
            return
        last = (args.load_best_model_at_end and state.best_global_step) or state.global_step
        for step, path in self._held().items():
            if step > last:
                shutil.rmtree(path)
        self._record(last, model, processing_class)

    def _held(self) -> dict[int, Path]:
        if not self.folder.is_dir():
            return {}
        named = [(match, path) for path in self.folder.iterdir() if (match := _ANCHOR.fullmatch(path.name))]
        return {int(match[1]): path for match, path in sorted(named, key=lambda one: int(one[0][1]))}

    def _record(self, step: int, model: nn.Module | None, processor: Any) -> None:
        if model is None:
            raise RuntimeError("the trainer tells its callbacks of no model")
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / f"anchor-{step}"
        scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=self.folder))
        plain = adapters.unwrapped(model)
        if isinstance(plain, PreTrainedModel):
            save_student(plain, processor if hasattr(processor, "save_pretrained") else None, scratch)
        else:
            save_model(plain, str(scratch / WEIGHTS_NAME))
        # Folders of `mkdtemp` are the user's alone.
        scratch.chmod(0o777 & ~_umask())
        if target.exists():
            target.rename(Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=self.folder)) / "old")
        scratch.rename(target)
        for path in self.folder.glob(f"{_SCRATCH}*"):
            shutil.rmtree(path)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
