"""A published student: a folder that loads without a stray key, and a card that is right and can be read."""

import math
import os
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import transformers
from huggingface_hub import ModelCard
from loopback_hub import read_card
from PIL import Image
from tiny_runs import published
from transformers import (
    AutoModelForImageClassification,
    ConvNextV2Config,
    ConvNextV2ForImageClassification,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    PreTrainedModel,
    SwinConfig,
    SwinForImageClassification,
    TrainerCallback,
    ViTImageProcessorPil,
)

from hf_abkd import DistillationTrainer, Objective, Stage, Term, knowledge_distillation
from hf_abkd.models.machine import this_machine
from hf_abkd.models.published_files import student_files
from hf_abkd.models.saving import save_student
from hf_abkd.objectives import OBJECTIVES, CrossEntropy
from hf_abkd.reports import card_picture
from hf_abkd.reports import model_card as hub
from hf_abkd.stages.arguments import OPEN_ARGUMENTS
from hf_abkd.stages.schedules import Linear
from hf_abkd.training.publishing import publisher
from hf_abkd.wording import duration

COMMON = {"num_labels": tiny.CLASSES}
# Fast copies of a teacher take longer to make than these few steps.
UNCHANGED_TEACHER = dict.fromkeys(("teacher_fold_batch_norm", "teacher_channels_last", "teacher_in_place"), False)


def processor():
    return ViTImageProcessorPil(size={"height": tiny.SIZE, "width": tiny.SIZE})


def mobilenet():
    config = MobileNetV2Config(image_size=tiny.SIZE, depth_multiplier=0.1, min_depth=2, tf_padding=False, **COMMON)
    return MobileNetV2ForImageClassification(config)


def swin():
    sizes = {"image_size": tiny.SIZE, "patch_size": 2, "window_size": 2}
    config = SwinConfig(embed_dim=4, depths=[1, 1], num_heads=[1, 2], **sizes, **COMMON)
    return SwinForImageClassification(config)


def convnext():
    config = ConvNextV2Config(num_stages=2, hidden_sizes=[4, 8], depths=[1, 1], patch_size=2, **COMMON)
    return ConvNextV2ForImageClassification(config)


FAMILIES = {"resnet": tiny.resnet, "vit": tiny.vit, "mobilenet": mobilenet, "swin": swin, "convnext": convnext}


def trainer(folder, model=None, *, teacher=None, stages=None, arguments=None, **others):
    model = tiny.resnet() if model is None else model
    args = tiny.arguments(folder, **{"max_steps": 6, "logging_steps": 1, **UNCHANGED_TEACHER, **(arguments or {})})
    data = {"train_dataset": tiny.images(16), "processing_class": processor()}
    return DistillationTrainer(model, args, teacher=teacher, stages=stages, **{**data, **others})


def boundary_run(folder, *, arguments=None, stages=None, **others):
    """A run in two stages that evaluates its teacher and the agreement with it, as far as it is measured."""
    measuring = {"eval_agreement": True, "evaluate_teacher": True, "eval_strategy": "steps", "eval_steps": 3}
    stages = published(tiny.RESNET_LAYERS) if stages is None else stages
    others = {"eval_dataset": tiny.images(8, seed=5), "compute_metrics": accuracy, "teacher": tiny.resnet(8), **others}
    return trainer(folder, stages=stages, arguments={**measuring, **(arguments or {})}, **others)


def accuracy(prediction):
    right = (prediction.predictions.argmax(1) == prediction.label_ids).mean()
    return {"accuracy": float(right), "undefined": math.nan, "text": "not a number"}


def card_of(run, **settings):
    """Return metadata and text of the card, after the checks that hold for every card."""
    run.create_model_card(**settings)
    path = Path(run.args.output_dir) / "README.md"
    content = path.read_text()
    metadata, errors = read_card(content)
    assert errors == []
    card = ModelCard.load(path)
    assert card.data.to_dict() == metadata
    assert metadata["library_name"] == "transformers"
    assert metadata["pipeline_tag"] == "image-classification"
    assert metadata["tags"][0] == "image-classification"
    assert len(set(metadata["tags"])) == len(metadata["tags"])
    for table in tables(card.text):
        assert len({cells(line) for line in table}) == 1, table
        assert set(table[1]) == set("| -")
    # A heading, list or table that is not on lines of its own is not seen as one.
    for block in re.split(r"\n\n+", re.sub(r"```.*?```", "", card.text, flags=re.DOTALL).strip()):
        starts = {line[0] for line in block.splitlines() if line[0] in "#|"}
        assert not starts or (len(starts) == 1 and all(line[0] in starts for line in block.splitlines())), block
    return metadata, card.text


def tables(text):
    return [block.splitlines() for block in re.split(r"\n\n+", text) if block.lstrip().startswith("|")]


def cells(line):
    assert line.startswith("| ") and line.endswith(" |"), line
    return len(re.findall(r"(?<!\\)\|", line))


def rows(text, title):
    """Return the rows of the first table whose first column has this title, by their first cell."""
    table = next(table for table in tables(text) if table[0].startswith(f"| {title} |"))
    split = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table]
    names = split[0]
    return {row[0].strip("`"): dict(zip(names, row, strict=True)) for row in split[2:]}


# ---- The folder ----


@pytest.mark.parametrize("family", FAMILIES)
def test_an_exported_folder_loads_without_a_stray_key(family, tmp_path):
    """Connector keys, or names that only the Trainer knows, would load as random weights with a mere warning."""
    torch.manual_seed(0)
    student = FAMILIES[family]()
    run = trainer(tmp_path, student, teacher=tiny.resnet(8), stages=knowledge_distillation())
    run.train()
    run.save_model()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    loaded, info = AutoModelForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert {key: list(value) for key, value in info.items() if value} == {}
    assert {"missing_keys", "unexpected_keys", "mismatched_keys"} <= set(info)
    expected, state = student.state_dict(), loaded.state_dict()
    assert expected.keys() == state.keys()
    assert all(torch.equal(expected[key], state[key]) for key in expected)


def half_written(*args, **kwargs):
    path = Path(args[1] if len(args) > 1 else kwargs["filename"])
    path.write_bytes(b"half a file")
    raise OSError("the disk is full")


@pytest.mark.skipif(os.name == "nt", reason="Windows has other rights")
def test_what_is_saved_can_be_read_by_whoever_reads_other_files(tmp_path):
    """Weights that their owner alone can open stop a colleague, a service and a container under another user."""
    save_student(tiny.resnet(), processor(), tmp_path)
    (tmp_path / "other").touch()
    usual = (tmp_path / "other").stat().st_mode
    assert {path.name: path.stat().st_mode for path in tmp_path.iterdir() if path.stat().st_mode != usual} == {}


@pytest.mark.parametrize("where", ["weights", "processor"])
def test_a_save_that_is_cut_off_leaves_the_old_folder_whole(where, tmp_path, monkeypatch):
    """A full disk or a kill while saving must not cost the model that was there before."""
    save_student(tiny.resnet(seed=1), processor(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(before) == 3
    broken = processor()
    if where == "weights":
        monkeypatch.setattr(transformers.modeling_utils, "safe_save_file", half_written)
    else:
        monkeypatch.setattr(broken, "save_pretrained", lambda folder: half_written(None, f"{folder}/config.json"))
    with pytest.raises(OSError, match="the disk is full"):
        save_student(tiny.resnet(seed=2), broken, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("with_processor", [True, False])
def test_the_snippet_of_a_card_runs_in_its_folder(with_processor, tmp_path, monkeypatch, capsys):
    """It is the first thing that a user of the model tries."""
    model = tiny.resnet(id2label=dict(enumerate("abcd")), label2id={name: index for index, name in enumerate("abcd")})
    run = trainer(tmp_path, model, processing_class=processor() if with_processor else None)
    run.save_model()
    _, text = card_of(run)
    snippet = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8))
    names = {"image": image} if with_processor else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of PIL and numpy, in the processor
        exec(snippet, names)
    assert isinstance(names["model"], PreTrainedModel)
    assert not names["model"].training
    printed = capsys.readouterr().out.strip()
    assert printed in set("abcd") if with_processor else printed == ""
    assert ("no image processor" in text) is not with_processor


# ---- The metadata ----


def test_the_metadata_hold_the_last_evaluation_of_the_student(tmp_path):
    """Leaderboards read them; the teacher's accuracy there would pass for the student's, and NaN breaks readers."""
    run = boundary_run(tmp_path)
    run.train()
    metadata, text = card_of(run, dataset="Tiny images", dataset_tags="user/tiny", dataset_args="small")
    last = [entry for entry in run.state.log_history if "eval_loss" in entry][-1]
    [model] = metadata["model-index"]
    [result] = model["results"]
    assert model["name"] == tmp_path.name
    assert result["task"] == {"type": "image-classification"}
    assert result["dataset"] == {"name": "Tiny images", "type": "user/tiny", "config": "small"}
    metrics = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert metrics == {
        "accuracy": pytest.approx(last["eval_accuracy"], abs=1e-6),
        "teacher_agreement": pytest.approx(last["eval_teacher_agreement"], abs=1e-6),
    }
    assert metadata["datasets"] == ["user/tiny"]
    assert "on Tiny images" in text


def test_without_an_evaluation_there_are_no_results(tmp_path):
    """An empty table or a made-up number would look like a measurement."""
    run = trainer(tmp_path)
    run.train()
    metadata, text = card_of(run)
    assert "model-index" not in metadata
    assert "## Results" not in text


@pytest.mark.parametrize("evaluated_again", [False, True])
def test_the_scores_are_those_of_the_model_that_is_published(evaluated_again, tmp_path):
    """After `load_best_model_at_end` the last evaluation is of another model than the one in the folder."""
    scores = iter([0.9, 0.2, 0.9])
    run = trainer(
        tmp_path,
        arguments={
            "eval_strategy": "steps",
            "eval_steps": 3,
            "save_strategy": "steps",
            "save_steps": 3,
            "load_best_model_at_end": True,
            "metric_for_best_model": "score",
            "greater_is_better": True,
        },
        eval_dataset=tiny.images(8, seed=5),
        compute_metrics=lambda _: {"score": next(scores)},
    )
    run.train()
    if evaluated_again:
        run.evaluate()
    metadata, text = card_of(run)
    assert metadata["model-index"][0]["results"][0]["metrics"] == [{"type": "score", "value": 0.9}]
    assert f"Evaluated after {6 if evaluated_again else 3} training steps" in text


def test_a_card_written_while_training_has_the_scores_of_then(tmp_path):
    """The cards of `hub_strategy="every_save"` are written between steps, under the settings of a stage."""
    texts = []

    class Write(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            texts.append(card_of(run)[1])

    stages = published(tiny.RESNET_LAYERS, initialization_arguments={"learning_rate": 0.25})
    run = boundary_run(tmp_path, stages=stages, callbacks=[Write()])
    run.train()
    assert len(texts) == 6
    assert ["Evaluated after 3 training steps" in text for text in texts] == [False] * 3 + [True] * 3
    rates = [rows(text, "setting")["learning_rate"] for text in texts]
    assert rates == [{"setting": "`learning_rate`", "stage 1": "0.25", "stage 2": "0.01"}] * 6


def test_a_run_that_was_stopped_does_not_pretend_to_be_whole(tmp_path):
    """Whoever repeats it would otherwise train for the planned length, and get another model."""

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = control.should_training_stop or state.global_step == 3

    run = boundary_run(tmp_path, callbacks=[Stop()])
    run.train()
    _, text = card_of(run)
    assert "### Stage 1: initialization\n\n2 steps, 0.5 epochs." in text
    assert "### Stage 2: classification\n\n1 step, 0.25 epochs." in text


def test_several_evaluation_sets_are_all_in_the_card(tmp_path):
    """Their metrics are logged one set after the other; none may hide another."""
    sets = {"clean": tiny.images(8, seed=5), "noisy": tiny.images(8, seed=6)}
    run = trainer(tmp_path, eval_dataset=sets, compute_metrics=accuracy)
    run.train()
    run.evaluate()
    metadata, text = card_of(run)
    types = [metric["type"] for metric in metadata["model-index"][0]["results"][0]["metrics"]]
    assert types == ["clean_accuracy", "noisy_accuracy"]
    assert {"clean_loss", "clean_accuracy", "noisy_loss", "noisy_accuracy"} <= set(rows(text, "metric"))


def test_a_local_folder_is_never_named(tmp_path, monkeypatch):
    """The Hub refuses it as `base_model`, and the path tells strangers about the author's machine."""
    for name, seed in (("student", 0), ("teacher", 1)):
        save_student(tiny.resnet(seed=seed), None, tmp_path / "secret" / name)
    monkeypatch.chdir(tmp_path)
    for secret in (str(tmp_path / "secret"), "secret"):
        load = AutoModelForImageClassification.from_pretrained
        student, teacher = load(f"{secret}/student"), load(f"{secret}/teacher")
        assert student.name_or_path == f"{secret}/student"
        run = trainer(tmp_path / "out", student, teacher=teacher, stages=knowledge_distillation())
        metadata, text = card_of(run)
        assert "base_model" not in metadata
        assert "secret" not in text + str(metadata)
        assert "not on the Hub" in text


@pytest.mark.parametrize(
    ("name", "is_id"),
    [
        *[("user/model", True), ("gpt2", True), ("user/my-model_1.0", True)],
        *[("/home/me/model", False), ("./model", False), ("../model", False), ("runs/ab/teacher", False)],
        *[("", False), ("my model", False), ("user/model--x", False), ("C:\\models", False)],
    ],
)
def test_only_ids_count_as_ids(name, is_id):
    """A path in the metadata makes the Hub refuse the whole commit."""
    assert hub.is_repo_id(name) is is_id


def test_an_existing_folder_is_no_id(tmp_path, monkeypatch):
    """`user/model` may be a folder here, and then the model came from it."""
    (tmp_path / "user" / "model").mkdir(parents=True)
    assert hub.is_repo_id("user/model")
    monkeypatch.chdir(tmp_path)
    assert not hub.is_repo_id("user/model")


def test_every_argument_of_the_trainers_card_has_its_place(tmp_path):
    """Scripts written for the Trainer pass them, as strings or lists; a task is no tag."""
    run = trainer(tmp_path, eval_dataset=tiny.images(8, seed=5), compute_metrics=accuracy)
    run.model.add_model_tags("of-the-model")
    run.train()
    run.evaluate()
    metadata, text = card_of(
        run,
        language="en",
        license="apache-2.0",
        tags=["vision", "hf_abkd", "vision"],
        model_name="A small model",
        finetuned_from="microsoft/resnet-18",
        tasks=["image-classification"],
        dataset_tags=["user/tiny", "local/../set"],
        dataset=["Tiny", "Set"],
    )
    assert metadata["language"] == "en"
    assert metadata["license"] == "apache-2.0"
    assert metadata["tags"] == ["image-classification", "hf_abkd", "of-the-model", "vision"]
    assert metadata["base_model"] == "microsoft/resnet-18"
    assert metadata["datasets"] == ["user/tiny"]
    assert metadata["model-index"][0]["name"] == "A small model"
    assert len(metadata["model-index"][0]["results"]) == 1
    assert text.lstrip().startswith("# A small model\n")
    assert "on Tiny, Set" in text
    assert "[microsoft/resnet-18](https://huggingface.co/microsoft/resnet-18)" in text
    assert card_of(run, tags="vision")[0]["tags"] == ["image-classification", "hf_abkd", "of-the-model", "vision"]


def test_a_card_of_the_folder_that_one_is_in_has_a_name(tmp_path, monkeypatch):
    """`output_dir="."` has no name of its own, and a heading without text is no title."""
    monkeypatch.chdir(tmp_path)
    assert card_of(trainer("."))[1].lstrip().startswith(f"# {tmp_path.name}\n")


# ---- The text ----


def test_a_card_says_which_teacher_taught_what_for_how_long(tmp_path):
    """Without the teacher's fingerprint, and the terms and lengths of the stages, nobody can repeat the run."""
    run = boundary_run(tmp_path)
    run.train()
    metadata, text = card_of(run)
    assert "knowledge-distillation" in metadata["tags"]
    teacher = rows(text, "teacher")
    assert teacher["class"][""] == "`ResNetForImageClassification`"
    assert teacher["parameters"][""] == f"{run.teacher.model.num_parameters():,}"
    assert teacher["SHA-256 of its tensors"][""] == f"`{run.run_state()['teacher']['fingerprint']}`"
    assert "### Stage 1: initialization\n\n2 steps, 0.5 epochs." in text
    assert "### Stage 2: classification\n\n4 steps, 1 epochs." in text
    first, second = (table for table in tables(text) if table[0].startswith("| term |"))
    assert len(first) == 2 + 2
    assert len(second) == 2 + 1
    terms = rows(text, "term")
    layer = tiny.RESNET_LAYERS[0][0]
    term = terms[f"activation_boundary/{layer}"]
    assert term["objective"] == "`ActivationBoundary(margin=1.0, reduction='mean')`"
    assert (term["student"], term["target"], term["weight"]) == (f"`{layer}`", f"teacher's `{layer}`", "`1.0`")
    end = next(entry for entry in run.state.log_history if entry["step"] == 2 and "loss" in entry)
    assert float(term["last value"]) == pytest.approx(end[f"activation_boundary/{layer}"], rel=1e-3)
    assert float(term["last boundary agreement"]) == pytest.approx(end[f"boundary_agreement/{layer}"], rel=1e-3)


def test_a_card_shows_what_was_measured_beside_the_student(tmp_path):
    """An accuracy says little without the teacher's and that of guessing; agreement is shown layer by layer."""
    run = boundary_run(tmp_path)
    run.train()
    _, text = card_of(run)
    scores = rows(text, "metric")
    layers = [f"boundary_agreement/{layer}" for layer, _ in tiny.RESNET_LAYERS]
    assert {"loss", "accuracy", "teacher_agreement", "teacher_accuracy", "chance_accuracy", *layers} <= set(scores)
    assert not {name for name in scores if "runtime" in name or "second" in name or name == "text"}
    measured = run.evaluate_teacher()["teacher_accuracy"]
    assert scores["teacher_accuracy"]["value"] == f"{measured:.4f}"
    assert scores["chance_accuracy"]["value"] == "0.2500"
    assert all(scores[name]["meaning"] for name in scores if name != "undefined")


def test_a_card_sets_the_student_beside_its_teacher(tmp_path):
    """What distillation is for: a reader sees at once how much smaller it is, and what that costs."""
    run = boundary_run(tmp_path)
    run.train()
    beside = rows(card_of(run)[1], "")
    ours, theirs = run.model.num_parameters(), run.teacher.model.num_parameters()
    assert beside["parameters"]["student"] == f"{ours:,}" and beside["parameters"]["teacher"] == f"{theirs:,}"
    assert beside["parameters"]["student / teacher"] == f"{ours / theirs:.2f}"
    assert set(beside) == {"accuracy", "parameters", "multiplications for an image"}
    # A convolution of 3 to 4 channels with 7 x 7 weights on 8 x 8 places, and what follows.
    assert int(beside["multiplications for an image"]["student"].replace(",", "")) > 3 * 4 * 49 * 64
    run = trainer(tmp_path / "alone")
    run.train()
    assert "student / teacher" not in card_of(run)[1]


def test_a_card_tells_on_what_and_for_how_long_and_folds_the_rest(tmp_path):
    """The terms and settings of a run fill pages, and a reader of the card looks for what the model is."""
    run = boundary_run(tmp_path)
    assert "steps of" not in card_of(run)[1]
    run.recipe = "method: alone\ndata:\n  train_dir: /home/me/secret/photos\n"
    run.train()
    _, text = card_of(run)
    [seconds] = [entry["train_runtime"] for entry in run.state.log_history if "train_runtime" in entry]
    short = f"2 steps of initialization, then 4 steps of classification, in {duration(seconds)} on {this_machine()}."
    assert short in text
    folded = re.findall(r"<details>\n<summary>(.*?)</summary>\n\n(.*?)\n\n</details>", text, re.DOTALL)
    assert [title for title, _ in folded] == ["Terms, layers and settings", "The recipe, to run it again"]
    assert "### Stage 1: initialization" in folded[0][1] and "train_dir: photos\n" in folded[1][1]
    assert "secret" not in text and text.index("### Teacher") < text.index("<details>")


@pytest.mark.parametrize(
    ("license_", "given", "note"),
    [
        ("cc-by-nc-4.0", "apache-2.0", "Its license is cc-by-nc-4.0, and the student's is apache-2.0: see"),
        ("mit", None, "Its license is mit, and no license is given for the student: see"),
        ("mit", "mit", None),
        (None, "mit", None),
    ],
)
def test_a_license_that_is_not_the_teachers_is_told(license_, given, note, tmp_path):
    """A teacher may forbid what is published under another name; nobody looks where nothing is said."""
    save_student(tiny.resnet(seed=1), None, tmp_path / "teacher")
    if license_ is not None:
        (tmp_path / "teacher" / "README.md").write_text(f"---\nlicense: {license_}\n---\n\n# A teacher\n")
    teacher = AutoModelForImageClassification.from_pretrained(tmp_path / "teacher")
    run = trainer(tmp_path / "out", teacher=teacher, stages=knowledge_distillation())
    run.create_model_card(license=given)
    text = (tmp_path / "out" / "README.md").read_text()
    assert ("Its license is" in text) is (note is not None) and (note or "") in text
    assert (f"| license | {license_} |" in text) is (license_ is not None)


def test_a_resumed_run_still_tells_the_teachers_accuracy(tmp_path):
    """It is measured before the first step only, and a resumed run never takes that."""
    saving = {"save_strategy": "steps", "save_steps": 3}
    run = boundary_run(tmp_path, arguments=saving)
    run.train()
    again = boundary_run(tmp_path, arguments=saving)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert (
        rows(card_of(again)[1], "metric")["teacher_accuracy"]["value"]
        == f"{run.evaluate_teacher()['teacher_accuracy']:.4f}"
    )


def test_a_card_of_a_run_without_a_teacher_speaks_of_none(tmp_path):
    """Baselines are published too, and must not pass for distilled models."""
    run = trainer(tmp_path)
    run.train()
    metadata, text = card_of(run)
    assert metadata["tags"] == ["image-classification", "hf_abkd"]
    assert "trained without a teacher" in text
    assert "### Teacher" not in text
    assert "distill" not in text
    assert "bibtex" not in text
    assert rows(text, "term")["cross_entropy"]["target"] == "labels"


def test_the_settings_are_those_that_were_used(tmp_path):
    """A stage's own optimiser, learning rate and schedule replace those of the arguments."""
    stages = [
        Stage(
            terms=[Term(CrossEntropy(), weight=Linear(1.0, 0.5))],
            optimizer=(torch.optim.SGD, {"lr": 0.125, "momentum": 0.5, "weight_decay": 0.25}),
            freeze=["resnet.embedder*"],
            share=0.5,
        ),
        Stage(terms=[Term(CrossEntropy(), name="a|b\nc")], arguments={"lr_milestones": [0.5], "lr_gamma": 0.5}),
    ]
    arguments = {"gradient_accumulation_steps": 2, "weight_decay": 0.0625}
    run = trainer(tmp_path, stages=stages, arguments=arguments, augmentation=lambda images, draws: images)
    run.train()
    _, text = card_of(run)
    settings = {name: (row["stage 1"], row["stage 2"]) for name, row in rows(text, "setting").items()}
    assert settings["optim"] == ("SGD(momentum=0.5)", OPEN_ARGUMENTS["optim"].value)
    assert settings["learning_rate"] == ("0.125", "0.01")
    assert settings["weight_decay"] == ("0.25", "0.0625")
    assert settings["lr_scheduler_type"] == ("linear", "lr_milestones=[0.5], lr_gamma=0.5")
    assert settings["total_train_batch_size"] == ("8", "8")
    assert settings["augmentation"][0] == "<lambda>"
    assert "Frozen: `resnet.embedder*`." in text
    assert "Linear(start=1.0, end=0.5)" in text
    assert "a\\|b c" in text
    for library in ("hf_abkd", "transformers", "torch"):
        assert re.search(rf"{library} \d+\.\d+", text)


def test_an_optimizer_given_to_the_trainer_is_named(tmp_path):
    """The card would otherwise tell the default optimiser, and its learning rate."""
    model = tiny.resnet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.125)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    run = trainer(tmp_path, model, optimizers=(optimizer, scheduler))
    run.train()
    settings = {name: row["value"] for name, row in rows(card_of(run)[1], "setting").items()}
    assert (settings["optim"], settings["learning_rate"]) == ("SGD", "0.125")
    assert settings["lr_scheduler_type"] == "ConstantLR"


def test_a_card_names_the_papers_of_its_objectives_once(tmp_path):
    """Authors of a method live on being cited, and its users have to know whom."""
    citations = re.findall(r"@\w+\{(\w+),", card_of(boundary_run(tmp_path))[1])
    assert citations == ["heo2019knowledge", "hinton2015distilling"]


def test_every_objective_of_a_paper_has_a_citation():
    """A new objective must not be forgotten; its docstring names the paper."""
    papers = {kind for kind in OBJECTIVES.values() if "Paper:" in (kind.__doc__ or "")}
    assert len(papers) >= 3
    assert papers == {kind for kind in OBJECTIVES.values() if kind.citation}

    class Own(Objective):
        pass

    assert hub.citations([Own().citation]) == []


def test_the_snippet_loads_from_the_branch_that_was_pushed_to(tmp_path):
    """Without its name a visitor of the branch gets the model of another one."""
    run = trainer(tmp_path, arguments={"hub_revision": "v2"})
    assert "revision" not in card_of(run)[1]
    run.hub_model_id = "user/model"
    text = card_of(run)[1]
    assert 'AutoImageProcessor.from_pretrained("user/model", revision="v2", backend="pil")' in text
    assert 'AutoModelForImageClassification.from_pretrained("user/model", revision="v2")' in text


# ---- What was measured ----


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """A run that was measured, and the lists of files that it uploads."""
    run = boundary_run(tmp_path / "mine", arguments={"measure_run": True, "eval_steps": 2})
    run.train()
    run.save_model()
    run.measure(images=str(tmp_path / "secret" / "flowers"), batch_sizes=(1,))
    uploads = []
    monkeypatch.setattr(publisher, "upload", lambda files, *_, **__: uploads.append([path.name for path in files]))
    return run, uploads


def test_what_was_measured_stands_on_the_card_with_its_picture(measured, tmp_path):
    """Whoever chooses a model wants to know what it costs beside its teacher, and broken pictures do not help."""
    run, uploads = measured
    metadata, text = card_of(run)
    table = rows(text, "")
    assert list(table["accuracy"]) == ["", "teacher", "mine before the run", "mine"]
    student = run.measured.evaluation.models[0]
    assert table["accuracy"]["mine"].startswith(f"{100 * student.accuracy.value:.2f} % (")
    assert re.fullmatch(r"[\d.]+ ms \([\d.]+x\)", table["latency, batch of 1"]["mine"])
    assert f"Measured on {run.measured.evaluation.count} images: flowers." in text
    assert "- mine against mine before the run: " in text and f"Times on {this_machine()}." in text
    [accuracy_result] = [
        one for one in metadata["model-index"][0]["results"][0]["metrics"] if one["type"] == "accuracy"
    ]
    assert accuracy_result["value"] == pytest.approx(student.accuracy.value, abs=1e-6)
    assert "](model_card.png)" in text and str(tmp_path) not in text
    with Image.open(tmp_path / "mine" / "model_card.png") as picture:
        assert picture.format == "PNG" and picture.width > 500
    run.hub_model_id = "user/mine"
    run._publisher.push("user/mine", message=None, token=None, revision=None, wait=True)
    assert uploads == [["config.json", "model.safetensors", "preprocessor_config.json", "README.md", "model_card.png"]]
    assert tmp_path / "mine" / "model_card.png" in student_files(tmp_path / "mine")


def test_without_matplotlib_the_card_is_as_right_and_links_to_nothing(measured, tmp_path, monkeypatch):
    """The extra is not part of the package, and a picture of an older run would stay beside the card."""
    run, uploads = measured
    card_of(run)
    monkeypatch.setattr(card_picture, "find_spec", lambda _: None)
    _, text = card_of(run)
    assert "model_card.png" not in text and "accuracy" in rows(text, "")
    assert not (tmp_path / "mine" / "model_card.png").exists()
    run._publisher.push("user/mine", message=None, token=None, revision=None, wait=True)
    assert uploads[0][-1] == "README.md"
