"""How much of a student the terms of a stage reach, and when that is probably less than was meant."""

from __future__ import annotations

# Below this share of its tensors a stage trains a stem: pairs of stages reach three quarters and more in all families.
_FEW = 1 / 3


def few_reached(stage: str, reached: int, wanted: int) -> str | None:
    """Return what to say of a stage that reaches few of the student's tensors; None if they are not few.

    Args:
        stage: What the stage is called in messages.
        reached: How many of the student's tensors get a gradient in it.
        wanted: How many are not frozen by the user.
    """
    if reached >= _FEW * wanted:
        return None
    return (
        f"{stage} reaches {reached} of the student's {wanted} tensors ({reached / wanted:.0%}), and the others stay as "
        "they are in it"
    )


#: What to do about it.
REMEDY = (
    "Pair layers that lie later in the student, as `hf-abkd inspect STUDENT --teacher TEACHER` shows them, or give "
    "this stage fewer steps."
)
