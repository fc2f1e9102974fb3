"""Exports as others load them: with plain transformers."""

import json
import sys

import pytest
import tiny
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification, ResNetConfig

from hf_abkd import export_student
from hf_abkd.export import exporting
from hf_abkd.export.deviation import Deviation
from hf_abkd.export.form import ExportForm
from hf_abkd.export.some_images import labelled_batches, spread_images

OWN = """
from transformers import ResNetConfig, ResNetForImageClassification


class OwnConfig(ResNetConfig):
    model_type = "own_net"


class OwnNet(ResNetForImageClassification):
    config_class = OwnConfig
"""


def said(folder, images, **how):
    """What a stored model says of some images, without any of this package."""
    model = AutoModelForImageClassification.from_pretrained(folder, **how).eval()
    pixels = torch.stack([images[place]["pixel_values"] for place in range(len(images))])
    with torch.no_grad():
        return model(pixels.to(model.dtype)).logits.float()


@pytest.mark.parametrize(("dtype", "share", "near"), [("fp32", 1.0, 1e-6), ("fp16", 0.5, 0.02), ("bf16", 0.5, 0.2)])
def test_safetensors_load_as_the_student_in_the_precision_asked_for(student, images, tmp_path, dtype, share, near):
    """A cast that is lost on the way to the disk ships twice the bytes, and one of a wrong tensor another model."""
    exported = export_student(student, tmp_path / "shipped", dtype=dtype, eval_dataset=images)
    folder = exported.folder
    model = AutoModelForImageClassification.from_pretrained(folder)
    assert model.dtype == ExportForm(dtype=dtype).torch_dtype and model.config.id2label[3] == "dog"
    expected, found = said(student, images), said(folder, images)
    assert (found - expected).abs().max() <= near * expected.std()
    assert AutoImageProcessor.from_pretrained(folder).size["height"] == tiny.SIZE
    assert {"README.md", "export.json", "config.json", "preprocessor_config.json"} < {
        path.name for path in folder.iterdir()
    }
    assert "# small" in (folder / "README.md").read_text() and "license: mit" in (folder / "README.md").read_text()
    before, after = exported.rows
    assert after.bytes == pytest.approx(share * before.bytes, rel=0.2)
    assert after.deviation.largest == pytest.approx(((found - expected).abs().max() / expected.std()).item(), abs=0.05)
    assert after.deviation.images == len(images) == exported.evaluated_on
    labels = torch.tensor([images[place]["labels"] for place in range(len(images))])
    assert after.accuracy.value == (found.argmax(1) == labels).float().mean().item()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shipped", "student"]


def test_what_was_measured_lies_beside_the_export(student, images, tmp_path):
    """A table in a terminal is gone when somebody asks what the shipped file was."""
    exported = export_student(student, tmp_path / "shipped", dtype="bf16", eval_dataset=images)
    text = (exported.folder / "export.json").read_text()
    found = json.loads(text)
    assert found["form"] == {"format": "safetensors", "dtype": "bf16", "quantize": None}
    assert [row["name"] for row in found["rows"]] == ["student, torch fp32", "safetensors bf16"]
    assert [each["batch_size"] for each in found["rows"][1]["latencies"]] == [1, 32]
    assert found["allowed_deviation"] == {"value": 0.5, "on_average": False}
    assert found["machine"]["threads"] == torch.get_num_threads() and found["packages"]["torch"] == torch.__version__
    assert found["student"] == "student" and str(tmp_path) not in text
    card = (exported.folder / "README.md").read_text()
    assert card.index("# small") < card.index("## In bfloat16") < card.index("## How to use it")
    report = list(exported.report())
    assert report[0].count("\n") == 3 and report[1].startswith("safetensors bf16 against the student: ")
    assert any("0.5 at most is allowed" in line for line in report)
    assert any("1 thread of" in line for line in report)


def test_the_picture_of_the_card_stays_with_the_student(student, tmp_path):
    """It is no file of the export, and a link to what is not there is a broken picture on the Hub."""
    card = (student / "README.md").read_text()
    (student / "README.md").write_text(card + "\n![Accuracy](model_card.png)\n\nEvaluated [here](model_card.png).\n")
    exported = export_student(student, tmp_path / "shipped", dtype="bf16")
    text = (exported.folder / "README.md").read_text()
    assert "![Accuracy]" not in text and "Evaluated [here](model_card.png)." in text


def test_without_images_accuracy_is_said_to_be_unknown(student, tmp_path):
    """A table without the column reads as if nothing had been lost."""
    exported = export_student(student, tmp_path / "new" / "shipped", dtype="fp16")
    report = "\n".join(exported.report())
    assert "Accuracy was not measured" in report and "64 images of noise" in report
    assert exported.rows[1].accuracy is None and exported.rows[1].difference is None


def test_code_of_the_student_comes_along(tmp_path, monkeypatch, processor, images):
    """A folder that only its author can load is not shipped."""
    (tmp_path / "own_for_test.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    import own_for_test

    monkeypatch.setitem(sys.modules, "own_for_test", own_for_test)
    own_for_test.OwnConfig.register_for_auto_class()
    own_for_test.OwnNet.register_for_auto_class("AutoModelForImageClassification")
    sizes = {"embedding_size": 4, "hidden_sizes": [8, 16], "depths": [1, 1], "num_labels": tiny.CLASSES}
    own_for_test.OwnNet(own_for_test.OwnConfig(**sizes)).save_pretrained(tmp_path / "own")
    processor.save_pretrained(tmp_path / "own")
    exported = export_student(tmp_path / "own", tmp_path / "shipped", dtype="fp16", trust_remote_code=True)
    assert (exported.folder / "own_for_test.py").is_file()
    expected, found = (said(folder, images, trust_remote_code=True) for folder in (tmp_path / "own", exported.folder))
    assert (found - expected).abs().max() < 0.05 * expected.std()


def test_a_form_that_says_something_else_is_refused_and_not_kept(student, tmp_path, monkeypatch):
    """A file that is wrong on the first image must not lie where the good one is expected."""
    far = Deviation(largest=0.2, average=0.1, images=64)
    monkeypatch.setattr(exporting, "deviation", lambda *_: far)
    with pytest.raises(ValueError, match=r"on 64 images its logits differ by 0.2 .* at most, and 0.05 .* Take fp32"):
        export_student(student, tmp_path / "shipped", dtype="fp16")
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


@pytest.mark.parametrize(
    ("deviation", "form", "told"),
    [
        (Deviation(2e-3, 1e-3, 64), ExportForm("onnx"), "differ by 0.002 .* at most, and 0.001 .* The export is wrong"),
        (Deviation(float("nan"), 0.0, 64), ExportForm(dtype="fp16"), "differ by nan .* Take fp32, fp16"),
        (Deviation(0.3, 0.3, 64), ExportForm("onnx", quantize="int8"), "0.3 of their spread on average .* 0.25"),
    ],
)
def test_how_far_off_it_may_be_depends_on_the_form(deviation, form, told):
    """In 8 bits some logits are always far off; in float32 none may be. What overflowed in float16 is no number."""
    with pytest.raises(ValueError, match=told):
        deviation.check(form)
    Deviation(0.9, 0.2, 64).check(ExportForm("onnx", quantize="int8"))
    Deviation(9e-4, 1e-4, 64).check(form)


def test_nothing_is_loaded_where_something_is_wrong_with_the_words(student, tmp_path, monkeypatch):
    """Loading takes a minute, and what stands in a folder is somebody's work."""
    monkeypatch.setattr(exporting, "load_stored", lambda *_, **__: pytest.fail("loaded"))
    monkeypatch.setattr(ExportForm, "check_packages", lambda _: None)
    with pytest.raises(ValueError, match=r"the output folder .*student is there and not empty"):
        export_student(student, student)
    with pytest.raises(ValueError, match=r"--train_files.* train_dataset\), or take int8_dynamic"):
        export_student(student, tmp_path / "shipped", format="onnx", quantize="int8")
    with pytest.raises(FileNotFoundError, match="absent"):
        export_student(tmp_path / "absent", tmp_path / "shipped")


def test_an_empty_folder_may_be_there(student, tmp_path):
    """Many make the folder first."""
    (tmp_path / "shipped").mkdir()
    export_student(student, tmp_path / "shipped")
    assert ResNetConfig.from_pretrained(tmp_path / "shipped").num_labels == tiny.CLASSES


def test_images_that_a_cache_hands_to_its_run_are_not_those_of_a_student():
    """An error of the runtime about bytes does not say what to give instead."""
    rows = [{"pixel_values": torch.zeros(3, 4, 4, dtype=torch.uint8), "labels": 0}] * 3
    for batches in (spread_images(rows, 2), labelled_batches(rows, "measuring")):
        with pytest.raises(TypeError, match=r"are uint8, .*prepare\(images, ImageTransform"):
            next(batches)
