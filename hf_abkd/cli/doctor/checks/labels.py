"""Which classes of the models and of the data are the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from hf_abkd.cli.doctor.findings import Finding
from hf_abkd.cli.doctor.subject import Subject
from hf_abkd.models.class_names import normalized
from hf_abkd.models.heads import renamed_head
from hf_abkd.models.student import student_config
from hf_abkd.wording import listed


def check_labels(subject: Subject) -> Iterator[Finding]:
    """Which classes of the models and the data are the same."""
    flags = subject.flags
    name = None if flags is None else flags.student_name_or_path
    if flags is not None and name is not None and not _is_only_config(Path(name).expanduser()):
        stored = student_config(name, flags.hub(flags.student_revision)).id2label
        yield from _head(stored, list(subject.student.config.id2label.values()))
    match = subject.teacher_classes()
    if match is None:
        return
    if match.kind == "same":
        yield Finding("ok", "labels", match.describe())
    elif match.kind == "permuted" and match.reason:
        return  # the run warns of it, with both lists
    elif match.kind in ("permuted", "subset"):
        yield Finding("note", "labels", f"{match.describe()}; logits are compared in the student's order")
    elif match.kind == "assumed":
        remedy = "If the order is another one, name the classes in `config.id2label` of both models."
        yield Finding("note", "labels", match.describe(), remedy)
    elif match.kind in ("superset", "overlap"):
        message = f"{match.describe()}; {match.left_out()}, whose logits are not compared"
        yield Finding("warning", "labels", message, "Of the others the student learns from the labels alone.")
    elif heads := subject.extra_heads():
        message = (
            f"{match.describe()}: an extra head on {listed(sorted(heads), quoted=True)} learns the teacher's logits"
        )
        yield Finding("note", "labels", message, "If they are the same classes, rename them in `config.id2label`.")
    else:
        message = f"{match.describe()}: logits cannot be compared"
        remedy = "If they are the same classes, rename them in `config.id2label` of one model."
        yield Finding("note", "labels", message, f"{remedy} Terms on features need no common classes.")


def _is_only_config(path: Path) -> bool:
    """Whether this is a local model without weights; a name on the Hub and that of a factory are no path."""
    return path.is_file() or (path.is_dir() and not any(path.glob("*.safetensors")))


def _head(stored: Mapping[int, str], labels: Sequence[str]) -> Iterator[Finding]:
    """Tell what becomes of the head that a student was stored with."""
    if len(stored) != len(labels):
        message = f"the student's head for {len(stored)} classes is replaced by a random one for {len(labels)}"
        yield Finding("note", "labels", message)
    elif text := renamed_head(stored, labels):
        reordered = {normalized(name) for name in stored.values()} == {normalized(name) for name in labels}
        yield Finding("warning" if reordered else "note", "labels", text)
