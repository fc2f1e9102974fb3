"""Runs from recipes, as the command line makes them: each ready one, the recipe that stays, and the same run again."""

import json

import numpy as np
import pytest
import tiny
from datasets import ClassLabel, Dataset, Features, Image
from example_runs import PLAIN
from PIL import Image as PILImage
from safetensors.torch import load_file
from transformers import ViTImageProcessorPil

from hf_abkd import Recipe
from hf_abkd.cli import recipe_run
from hf_abkd.cli.main import main
from hf_abkd.cli.recipe_access import AccessArguments
from hf_abkd.recipes.ready import ready_recipes

NAMES = [f"class {index}" for index in range(tiny.CLASSES)]
SHORT = [
    *("training.use_cpu=true", "training.max_steps=2", "training.per_device_train_batch_size=4"),
    *("training.eval_strategy=no", "training.save_strategy=no", "training.disable_tqdm=true"),
    *("training.term_gradient_steps=0", "training.teacher_fold_batch_norm=false", "training.evaluate_teacher=false"),
    *("training.teacher_channels_last=false", "training.teacher_in_place=false", "training.report_to=none"),
]
WITHOUT_TEACHER = ("mean_teacher", "teacher_free_regularization")
VITS = ["teacher.model=large-vit", "student.model=small-vit"]
OF_ONE = {
    **dict.fromkeys(("attention_distillation", "hidden_state_distillation", "minilm"), VITS),
    "factor_transfer": ["settings.paraphrasing_share=0.5"],
    "vitkd": [*VITS, "settings.shallow=1"],
    "route_constrained": ["settings.anchors=[anchor-1, anchor-2]"],
    "joint_adaptation": ["data.target_domain.train_files=[test.parquet]", "data.target_domain.train_val_split=0"],
    "data_free": ["data.train_files=null", "data.synthesize={num_images: 8, settings: {iterations: 2}, previews: 0}"],
}


@pytest.fixture(scope="module")
def possessions(tmp_path_factory):
    """A folder with models and images."""
    folder, generator = tmp_path_factory.mktemp("models and images"), np.random.default_rng(0)
    processor = ViTImageProcessorPil(size={"height": tiny.SIZE, "width": tiny.SIZE})
    names = {"id2label": dict(enumerate(NAMES)), "label2id": {name: index for index, name in enumerate(NAMES)}}
    for name, width in (("teacher", 8), ("anchor-1", 8), ("anchor-2", 8), ("student", 4)):
        tiny.resnet(width, seed=1, **names).save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    for name, width in (("large-vit", 16), ("small-vit", 8)):
        tiny.vit(width, seed=1, **names).save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    for name in ("student", "small-vit"):
        (folder / name / "model.safetensors").unlink()
    features = Features({"image": Image(), "label": ClassLabel(names=NAMES)})
    for name in ("train", "test"):
        pixels = generator.integers(0, 256, (12, tiny.SIZE, tiny.SIZE, 3), dtype=np.uint8)
        columns = {"image": [PILImage.fromarray(one) for one in pixels], "label": [index % 4 for index in range(12)]}
        Dataset.from_dict(columns, features=features).to_parquet(str(folder / f"{name}.parquet"))
    return folder


@pytest.fixture
def here(possessions, monkeypatch, tmp_path):
    monkeypatch.chdir(possessions)
    return tmp_path


def words_of(name, folder, *more):
    files = ["data.train_files=[train.parquet]", "data.validation_files=[test.parquet]"]
    models = ["student.model=student", f"training.output_dir={folder}"]
    models += [] if name in WITHOUT_TEACHER else ["teacher.model=teacher"]
    return [name, *models, *files, *SHORT, *OF_ONE.get(name, []), *more]


@pytest.mark.parametrize("name", sorted(ready_recipes()))
def test_ready_recipe_trains_a_student(here, name, capsys):
    """What comes along is tried first; it must not end in an error after the models are loaded."""
    assert main(["train", *words_of(name, here / "out")]) == 0
    assert (here / "out" / "model.safetensors").is_file() and (here / "out" / "README.md").is_file()
    kept = Recipe.load(here / "out" / "recipe.yaml")
    assert kept.method == Recipe.from_yaml(ready_recipes()[name]).method and kept.section("training")["seed"] == 42
    assert f"The student is in {here / 'out'}" in capsys.readouterr().out


def test_recipe_of_a_run_gives_the_same_student_again(here):
    """What stands beside a result has to be what made it: another weight is another run."""
    words = words_of("activation_boundary", here / "first", "settings.margin=2", "training.seed=3")
    main(["train", *words, "augmentation=[{name: random_crop, padding: 2}]"])
    main(["train", str(here / "first" / "recipe.yaml"), f"training.output_dir={here / 'second'}"])
    first, second = (load_file(here / name / "model.safetensors") for name in ("first", "second"))
    assert not tiny.differing(first, second)
    assert Recipe.load(here / "second" / "recipe.yaml").section("settings")["margin"] == 2
    main(["train", str(here / "first" / "recipe.yaml"), f"training.output_dir={here / 'third'}", "training.seed=4"])
    assert tiny.differing(first, load_file(here / "third" / "model.safetensors"))


def test_run_of_flags_keeps_a_recipe_that_gives_the_same_student_again(here):
    """A run that began as a command line is passed on as a file."""
    flags = ["--method", "ab", "--teacher_name_or_path", "teacher", "--student_name_or_path", "student", "--flip"]
    flags += ["--train_files", "train.parquet", "--validation_files", "test.parquet", "--use_cpu", "--max_steps", "2"]
    flags += ["--per_device_train_batch_size", "4", "--eval_strategy", "no", "--save_strategy", "no", *PLAIN]
    flags += ["--disable_tqdm", "1", "--no_evaluate_teacher", "--temperature", "2", "--eval_agreement", "no"]
    main(["train", *flags, "--output_dir", str(here / "first")])
    recipe = Recipe.load(here / "first" / "recipe.yaml")
    assert [entry["name"] for entry in recipe.content["augmentation"]] == ["random_crop", "random_horizontal_flip"]
    assert "logging_steps" not in recipe.section("training")
    main(["train", str(here / "first" / "recipe.yaml"), f"training.output_dir={here / 'second'}"])
    first, second = (load_file(here / name / "model.safetensors") for name in ("first", "second"))
    assert not tiny.differing(first, second)


def test_a_recipe_of_two_domains_is_measured_on_the_target(here):
    """What the student is for; the source is what both models know already."""
    target = ["data.target_domain.validation_files=[train.parquet]", "data.target_domain.max_eval_samples=8"]
    assert main(["train", *words_of("joint_adaptation", here / "out", *target, "training.measure_run=true")]) == 0
    told = json.loads((here / "out" / "evaluation.json").read_text())
    assert (told["images"], told["count"]) == ("evaluation images of the target, test.parquet", 8)


def test_domains_that_would_be_decoded_differently_are_refused(here, capsys):
    """The discriminator would tell them by their pixels, and the adaptation be of the decoder."""
    with pytest.raises(SystemExit):
        main(["train", *words_of("joint_adaptation", here / "out", "data.reduced_decoding=true")])
    assert "data.target_domain.reduced_decoding" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("left_out", "message"),
    [
        ("student.model", "leaves open what it runs on: student.model"),
        ("teacher.model", "leaves open what it runs on: teacher.model"),
        ("training.output_dir", "leaves open what it runs on: training.output_dir"),
        ("data.train_files", "data.train_dir .or data.train_files, data.dataset_name"),
    ],
)
def test_recipe_that_leaves_something_open_is_refused_before_anything_is_loaded(here, left_out, message, capsys):
    """A ready recipe names no models; the first try of it must tell which words are missing."""
    words = [word for word in words_of("knowledge_distillation", here / "out") if not word.startswith(left_out)]
    with pytest.raises(SystemExit) as end:
        main(["train", *words])
    assert end.value.code == 2 and message in capsys.readouterr().err.replace("(", ".")
    assert not (here / "out").exists()


def test_student_alone_needs_no_teacher():
    """What every method has to beat is trained in the same way, and from images with labels alone."""
    sections = {"student": {"model": "s"}, "data": {"train_dir": "p"}, "training": {"output_dir": "o"}}
    recipe_run.check_complete(Recipe({"method": "alone", **sections}))
    with pytest.raises(ValueError, match="teacher.model"):
        recipe_run.check_complete(Recipe({"method": "activation_boundary", **sections}))


def test_code_of_a_repository_runs_by_the_flag_alone(monkeypatch):
    """It is off whatever the recipe says, and what the flag says reaches both models."""
    sections = {"data": {"train_dir": "p"}, "training": {"output_dir": "o"}}
    recipe = Recipe(
        {"method": "knowledge_distillation", "teacher": {"model": "t"}, "student": {"model": "s"}, **sections}
    )
    for allowed in (False, True):
        access = AccessArguments(trust_remote_code=allowed, token="hf_secret")
        models = recipe_run.RecipeRun(recipe, access).models()
        assert models.trust_remote_code is allowed and models.hub().for_models()["token"] == "hf_secret"
    assert AccessArguments().trust_remote_code is False


def test_folder_of_another_run_keeps_its_recipe(here, capsys):
    """It would tell of a run that was refused."""
    main(["train", *words_of("alone", here / "out")])
    before = (here / "out" / "recipe.yaml").read_text()
    with pytest.raises(SystemExit):
        main(["train", *words_of("alone", here / "out", "training.seed=9", "training.resume_from_checkpoint=null")])
    assert (here / "out" / "recipe.yaml").read_text() == before
