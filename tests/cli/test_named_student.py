"""Students that flags and recipes have made of their teachers."""

from pathlib import Path

import pytest
import tiny
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from transformers import ViTImageProcessorPil

from hf_abkd import Recipe
from hf_abkd.cli.main import main
from hf_abkd.cli.named_student import named_student
from hf_abkd.cli.workload import from_flags
from hf_abkd.data.arguments import DataArguments
from hf_abkd.models.arguments import ModelArguments

NAMES = [f"class {index}" for index in range(tiny.CLASSES)]
HALF = {"teacher_name_or_path": "teacher", "student_from_teacher": "width=0.5"}
SHORT = [
    *("training.use_cpu=true", "training.max_steps=2", "training.per_device_train_batch_size=4"),
    *("training.eval_strategy=no", "training.save_strategy=no", "training.disable_tqdm=true"),
    *("training.term_gradient_steps=0", "training.evaluate_teacher=false", "training.report_to=none"),
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a teacher, a file that makes one, and images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    tiny.resnet(8, seed=1, id2label=dict(enumerate(NAMES))).save_pretrained("teacher")
    ViTImageProcessorPil(size={"height": 20, "width": 20}).save_pretrained("teacher")
    Path("made_for_test.py").write_text("import tiny\n\ndef make():\n    return tiny.resnet(8)\n")
    rows = {"image": [PILImage.new("RGB", (20, 20), (20 * i, 0, 0)) for i in range(8)], "label": [0, 1, 2, 3] * 2}
    features = Features({"image": Image(), "label": ClassLabel(names=NAMES)})
    Dataset.from_dict(rows, features=features).to_parquet("rows.parquet")
    return tmp_path


def load(**flags):
    data = DataArguments(train_files=["rows.parquet"], train_val_split=0.0)
    return from_flags(ModelArguments(**flags), data, seed=0)


def test_flags_make_the_student_of_the_teacher(folder, capsys):
    """Each method that is compared has to start from the same student, and the reader to know what it was made of."""
    work = load(**HALF)
    first, second = work.make_student(), work.make_student()
    assert first.config.hidden_sizes == [8, 16] and not tiny.differing(tiny.tensors(first), tiny.tensors(second))
    assert work.processor.size["height"] == 20 and work.teacher_processor is None
    told = capsys.readouterr().out
    assert (
        told.count("the student is made from the teacher: embedding_size 8 -> 4, hidden_sizes [16, 32] -> [8, 16]") == 1
    )
    assert not any(parameter.requires_grad for parameter in work.teacher.parameters())


def test_a_teacher_that_is_code_is_sliced_when_it_is_made(folder):
    """Its config is not known before, and its processor has to be named."""
    work = load(**{**HALF, "teacher_name_or_path": "made_for_test:make", "teacher_image_processor_name": "teacher"})
    assert work.make_student().config.hidden_sizes == [8, 16]
    with pytest.raises(ValueError, match="is made by a function and has no image processor"):
        load(**{**HALF, "teacher_name_or_path": "made_for_test:make"})


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"student_name_or_path": "s"}, "makes a student, and --student_name_or_path s names another one"),
        ({"student_from_teacher": "width=2"}, "--student_from_teacher: width must be above 0 and at most 1"),
        ({"teacher_name_or_path": None}, "makes the student of a teacher: name it, --teacher_name_or_path"),
        ({"student_from_teacher": "depth=0.5"}, "teacher 'teacher': depth=0.5 leaves nothing out"),
        (
            {"teacher_name_or_path": "cached"},
            "'cached' is a cache of what a teacher said, without the teacher's weights",
        ),
        ({"teacher_name_or_path": "bare"}, "teacher 'bare' has no weights"),
        ({"teacher_name_or_path": "whole"}, "made from a quantised teacher"),
    ],
)
def test_what_cannot_be_made_is_told_before_images_are_loaded(folder, flags, told):
    """Loading takes minutes, and what is wrong is known from the flags and a config."""
    Path("cached").mkdir()
    Path("cached/hf_abkd_cache.json").write_text("{}")
    config = tiny.resnet(8).config
    config.save_pretrained("bare")
    config.quantization_config = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    config.save_pretrained("whole")
    Path("whole/model.safetensors").write_bytes(Path("teacher/model.safetensors").read_bytes())
    with pytest.raises(ValueError, match=told):
        named_student(ModelArguments(**{**HALF, **flags}))


@pytest.mark.parametrize("method", ["kd", "alone"])
def test_flags_keep_a_recipe_that_makes_the_same_student_again(folder, method, capsys):
    """A recipe without the factors, or of a student alone without its teacher, could not be run."""
    words = ["--teacher_name_or_path", "teacher", "--student_from_teacher", "depth=1,width=0.25", "--method", method]
    words += ["--train_files", "rows.parquet", "--train_val_split", "0", "--output_dir", "run", "--max_steps", "1"]
    words += ["--use_cpu", "--save_strategy", "no", "--report_to", "none", "--disable_tqdm", "1"]
    assert main(["train", *words]) == 0
    assert "chosen for a student with random weights" in capsys.readouterr().out
    kept = Recipe.load("run/recipe.yaml")
    assert kept.section("student") == {"from_teacher": {"depth": 1.0, "width": 0.25}}
    assert kept.section("teacher") == {"model": "teacher"}
    again = ["run/recipe.yaml", "training.output_dir=again", "training.student_start=trained"]
    assert main(["train", *again]) == 0
    assert "chosen for a student with trained weights" in capsys.readouterr().out
    assert Path("again/config.json").read_bytes() == Path("run/config.json").read_bytes()


def test_a_recipe_makes_the_student_of_the_teacher(folder, capsys):
    """What is said by flags has to be said by a file."""
    words = ["data.train_files=[rows.parquet]", "data.train_val_split=0", "training.output_dir=run", *SHORT]
    words += ["teacher.model=teacher", "student.from_teacher.width=0.5"]
    assert main(["train", "knowledge_distillation", *words]) == 0
    assert "hidden_sizes [16, 32] -> [8, 16]" in capsys.readouterr().out
    assert Recipe.load("run/recipe.yaml").section("student") == {"from_teacher": {"width": 0.5}}


@pytest.mark.parametrize(
    ("student", "told"),
    [
        ({}, "say who learns: a model, or from_teacher"),
        ({"model": "s", "from_teacher": {"width": 0.5}}, "from_teacher makes the student of the teacher: leave model"),
        ({"from_teacher": {"width": 1.5}}, "width must be above 0 and at most 1"),
        ({"from_teacher": {}}, "the student would be its teacher"),
        ({"from_teacher": {"height": 0.5}}, "no key 'height'"),
    ],
)
def test_a_recipe_of_two_students_or_none_is_refused(student, told):
    """`hf-abkd validate` has to find it: one of the two would not be used."""
    with pytest.raises(ValueError, match=told):
        Recipe({"method": "knowledge_distillation", "student": student})


@pytest.mark.parametrize(
    ("teacher", "told"), [({}, "teacher.model"), ({"teacher.mean": "{}"}, "the mean of the student has none")]
)
def test_a_recipe_without_a_teacher_to_make_it_of_says_so(teacher, told, capsys):
    """A student cannot be made of nothing, nor of the mean of itself."""
    words = ["student.from_teacher.width=0.5", "data.train_files=[a.parquet]", "training.output_dir=run"]
    words += [f"{key}={value}" for key, value in teacher.items()]
    with pytest.raises(SystemExit, match="2"):
        main(["train", "mean_teacher" if teacher else "alone", *words])
    assert told in capsys.readouterr().err
