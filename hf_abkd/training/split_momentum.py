"""SGD with two momenta: a smaller one for the gradient of the labels, a larger one for that of the teacher.

Paper: Zhao et al., ICCV 2023, https://huggingface.co/papers/2307.08436
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor

from hf_abkd.settings import number
from hf_abkd.stages.arguments import DistillationArguments
from hf_abkd.stages.stage import Stage

_TASK, _DISTILLATION = "task_momentum", "distillation_momentum"


class SplitMomentumSGD(torch.optim.Optimizer):
    """Step by the sum of two momentum buffers, as the distillation-oriented trainer (DOT) does.

    With g_task the gradient of the terms that compare with labels alone and g_dist that of those that compare with the
    teacher, v_task becomes (m - delta) v_task + g_task, v_dist becomes (m + delta) v_dist + g_dist, and the weights
    move by -lr (v_task + v_dist). Weight decay is part of g_task. A tensor that only one of the two reaches, such as a
    connector, has the momentum m, and the weight decay with what reaches it. delta = 0 is SGD with the momentum m.

    `grad` holds the sum of both gradients when `step` is called, and `take` has told the part of the task.

    Paper: Zhao et al., ICCV 2023, https://huggingface.co/papers/2307.08436
    Differs from the authors' code: without dampening; the gradient of the teacher is the difference of the sum and the
        task's, so that one clipping and one averaging over processes serve both.

    Args:
        params: The parameters, or groups of them.
        lr: The learning rate.
        momentum: m.
        delta: By how much the two momenta are apart from it.
        weight_decay: The weight decay.

    Raises:
        ValueError: If m - delta is negative, or m + delta is not below 1.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        momentum: float,
        delta: float,
        weight_decay: float = 0.0,
    ) -> None:
        number("delta", delta, least=0)
        if not 0 <= momentum - delta <= momentum + delta < 1:
            raise ValueError(
                f"momentum {momentum:g} and momentum_delta {delta:g} give the momenta {momentum - delta:g} and "
                f"{momentum + delta:g}; both must be at least 0 and below 1"
            )
        super().__init__(params, {"lr": lr, "momentum": momentum, "delta": delta, "weight_decay": weight_decay})
        self._task: Mapping[Tensor, Tensor] | None = None
        self._untaught: Set[Tensor] = frozenset()

    def take(self, task: Mapping[Tensor, Tensor], untaught: Set[Tensor]) -> None:
        """Take in what of the gradients of the next step is of the task.

        Args:
            task: The gradient by parameter, of those that the task reaches.
            untaught: The parameters that the teacher does not reach.
        """
        self._task, self._untaught = task, untaught

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move the weights.

        Raises:
            RuntimeError: If it was not told what is of the task.
        """
        if closure is not None:
            raise RuntimeError("SplitMomentumSGD takes no closure: it needs two gradients")
        if self._task is None:
            raise RuntimeError("SplitMomentumSGD was not told which part of the gradient is of the task; see `take`")
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)
        self._task = None
        return None

    def _move(self, parameter: Tensor, group: Mapping[str, Any]) -> None:
        assert self._task is not None and parameter.grad is not None
        task, delta = self._task.get(parameter), group["delta"]
        if parameter in self._untaught:
            parts = [(_TASK, parameter.grad, 0.0)]
        elif task is None:
            parts = [(_DISTILLATION, parameter.grad, 0.0)]
        else:
            parts = [(_TASK, task, -delta), (_DISTILLATION, parameter.grad - task, delta)]
        state = self.state[parameter]
        decay = group["weight_decay"] * parameter if group["weight_decay"] else None
        for index, (name, gradient, apart) in enumerate(parts):
            if name not in state:
                state[name] = torch.zeros_like(parameter)
            state[name].mul_(group["momentum"] + apart).add_(gradient)
            if index == 0 and decay is not None:
                state[name].add_(decay)
        for name, _, _ in parts:
            parameter.add_(state[name], alpha=-group["lr"])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: If it is one of another optimiser.
        """
        found = {name for state in state_dict["state"].values() for name in state}
        if found - {_TASK, _DISTILLATION} or not all("delta" in group for group in state_dict["param_groups"]):
            raise ValueError(
                f"the checkpoint is of another optimiser, whose state is {sorted(found)}: its run had no "
                "momentum_delta. Leave momentum_delta out to go on with it, or start a new run in another output_dir."
            )
        super().load_state_dict(state_dict)


def split_sgd(kind: type, settings: Mapping[str, Any], delta: float, where: str) -> tuple[type, dict[str, Any]]:
    """Return class and settings of the optimiser with two momenta in the place of SGD.

    Args:
        kind: The class of the optimiser that a stage has.
        settings: Its settings.
        delta: By how much the momenta are apart.
        where: The stage, for errors.

    Raises:
        ValueError: If it is not SGD with momentum and nothing more.
    """
    further = [name for name in ("nesterov", "dampening", "maximize") if settings.get(name)]
    if kind is not torch.optim.SGD or further:
        has = f"{kind.__name__} with {', '.join(further)}" if further else kind.__name__
        raise ValueError(
            f"momentum_delta splits the momentum of plain SGD, and {where} has {has}: set optim='sgd' and "
            "optim_args='momentum=0.9', or leave momentum_delta out"
        )
    momentum = settings.get("momentum", 0.0)
    if momentum == 0:
        raise ValueError(f"momentum_delta splits a momentum, and {where} has none: set optim_args='momentum=0.9'")
    made_of = {name: settings[name] for name in ("lr", "weight_decay") if name in settings}
    made_of |= {"momentum": momentum, "delta": delta}
    # Numbers that are out of range fail here, and not when the stage begins.
    SplitMomentumSGD([torch.zeros(1)], **{"lr": 0.0, **made_of})
    return SplitMomentumSGD, made_of


def check_split(stage: Stage, args: DistillationArguments) -> None:
    """Refuse a split momentum in a stage whose gradient has not two parts, or cannot be had in two.

    Args:
        stage: The stage, its layers paired.
        args: Its training arguments.

    Raises:
        ValueError: If it is one.
    """
    where = f"stage {stage.name!r}" if stage.name else "a stage"
    if stage.teacher_terms:
        raise ValueError(f"momentum_delta is for a teacher that teaches, and {where} trains the teacher, too")
    terms = stage.each_term()
    if neither := [term.name for term in terms if not term.is_of_task and not term.wants_teacher]:
        raise ValueError(
            f"momentum_delta has a momentum for labels and one for the teacher, and the terms {neither} of {where} "
            "compare with neither"
        )
    kinds: Sequence[tuple[str, bool]] = (
        ("the labels alone", any(term.is_of_task for term in terms)),
        ("the teacher", any(term.wants_teacher for term in terms)),
    )
    if missing := [what for what, is_there in kinds if not is_there]:
        raise ValueError(
            f"momentum_delta needs terms that compare with the labels alone and terms that compare with the teacher, "
            f"and {where} has none that compares with {missing[0]}. Set it in the stages that have both: "
            'Stage(..., arguments={"momentum_delta": 0.075})'
        )
    for name in ("fp16", "torch_compile"):
        if getattr(args, name):
            raise ValueError(
                f"momentum_delta takes two gradients of one forward pass, which {name} does not allow; "
                + ("use bf16, or full precision" if name == "fp16" else "leave one of the two out")
            )
