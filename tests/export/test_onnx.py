"""ONNX files as others run them: with plain onnxruntime. Writing one takes seconds, so that tests share them."""

import json
import logging
import re

import numpy as np
import pytest
import tiny
import torch
from PIL import Image as PILImage
from transformers import ResNetForImageClassification, SwinConfig, SwinForImageClassification

from hf_abkd import export_student
from hf_abkd.export import writing
from hf_abkd.export.eight_bits import check_linear_share, quantize_dynamic, quantize_static
from hf_abkd.export.onnx_file import write_onnx
from hf_abkd.export.runners import onnx_runner

SWIN = {"image_size": tiny.SIZE, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]}
SWIN |= {"window_size": 4, "num_labels": tiny.CLASSES}

pytestmark = pytest.mark.usefixtures("onnx_is_installed")


@pytest.fixture(scope="module")
def written(onnx_is_installed, tmp_path_factory):
    """Writes a student as ONNX, once for all that are equal."""
    made = {}

    def write(model, example, path):
        key = type(model), model.dtype
        if key not in made:
            made[key] = tmp_path_factory.mktemp("written") / "model.onnx"
            write_onnx(model, example, made[key])
        path.write_bytes(made[key].read_bytes())

    return write


@pytest.fixture
def write_once(written, monkeypatch):
    monkeypatch.setattr(writing, "write_onnx", written)


@pytest.mark.usefixtures("write_once")
def test_onnx_says_what_the_student_says_of_any_number_of_images(student, images, tmp_path, monkeypatch):
    """A graph that was traced with two images and takes no others fails at the first user."""
    import onnx
    import onnxruntime

    exported = export_student(student, tmp_path / "shipped", format="onnx", eval_dataset=images)
    path = exported.folder / "model.onnx"
    session = onnxruntime.InferenceSession(path)
    assert [each.name for each in session.get_inputs()] == ["pixel_values"]
    assert [each.name for each in session.get_outputs()] == ["logits"]
    model = ResNetForImageClassification.from_pretrained(student).eval()
    for count in (1, 3, 7):
        pixels = torch.randn(count, 3, tiny.SIZE, tiny.SIZE)
        [logits] = session.run(None, {"pixel_values": pixels.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), model(pixels).logits.detach(), rtol=1e-4, atol=1e-5)
    assert json.loads(session.get_modelmeta().custom_metadata_map["id2label"])["3"] == "dog"
    assert exported.rows[1].deviation.largest < 1e-3 and exported.rows[1].accuracy == exported.rows[0].accuracy
    assert not any(node.metadata_props for node in onnx.load(path).graph.node)
    assert str(tmp_path).encode() not in path.read_bytes() and b".py" not in path.read_bytes()
    assert sorted(each.name for each in exported.folder.iterdir()) == [
        *("README.md", "config.json", "export.json", "model.onnx", "preprocessor_config.json")
    ]
    code_of_the_card_runs(exported.folder, monkeypatch)


def code_of_the_card_runs(folder, monkeypatch):
    card = (folder / "README.md").read_text()
    assert "library_name: onnx" in card and "license: mit" in card
    assert card.index("# small") < card.index("## As ONNX") < card.index("## How to use it")
    [code] = re.findall(r"```python\n(.*?)```", card, re.S)
    monkeypatch.chdir(folder)
    answers = []
    exec(code, {"image": PILImage.new("RGB", (30, 40)), "print": answers.append})
    assert answers in (["ant"], ["bee"], ["cat"], ["dog"])


@pytest.mark.usefixtures("write_once")
def test_eight_bits_are_smaller_and_measured_beside_what_they_are_made_of(student, images, tmp_path):
    """What they cost can only be seen beside the same network in floating point, in the same runtime."""
    exported = export_student(
        student, tmp_path / "shipped", format="onnx", quantize="int8", train_dataset=images, eval_dataset=images
    )
    assert [row.name for row in exported.rows] == ["student, torch fp32", "onnx fp32", "onnx int8"]
    _, in_float, in_8_bits = exported.rows
    assert 0 < in_float.deviation.largest < 1e-3 < in_8_bits.deviation.largest
    assert in_8_bits.bytes == (exported.folder / "model.onnx").stat().st_size
    assert exported.calibrated_on == len(images) and in_8_bits.difference is not None
    assert "Ranges of activations are those of 24 training images." in list(exported.report())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shipped", "student"]


def test_half_precision_takes_and_gives_float32(written, tmp_path):
    """Who has to cast images before and logits after cannot put the file in the place of the other."""
    model = tiny.resnet(8).eval()
    pixels = torch.randn(5, 3, tiny.SIZE, tiny.SIZE)
    expected = model(pixels).logits.detach()
    written(model.half(), pixels[:2], tmp_path / "half.onnx")
    logits = onnx_runner(tmp_path / "half.onnx")(pixels)
    assert logits.dtype == torch.float32
    assert 0 < (logits - expected).abs().max() < 0.05 * expected.std()


@pytest.mark.parametrize("how", ["static", "dynamic"])
def test_a_transformer_survives_eight_bits(written, tmp_path, how, caplog):
    """With sums from layer to layer in 8 bits, logits of a tiny one are off by a third of their spread.

    With attention as one operation, torch writes Swin for the number of images that it was traced with.
    """
    import onnx

    torch.manual_seed(0)
    model = SwinForImageClassification(SwinConfig(**SWIN)).eval()
    pixels = torch.randn(32, 3, tiny.SIZE, tiny.SIZE)
    expected = model(pixels).logits.detach()
    path, target = tmp_path / "model.onnx", tmp_path / "eight.onnx"
    written(model, pixels[:2], path)
    caplog.clear()
    if how == "static":
        quantize_static(path, target, iter(pixels.split(8)))
    else:
        quantize_dynamic(path, target)
    difference = onnx_runner(target)(pixels) - expected
    assert 0 < difference.square().mean().sqrt() < 0.1 * expected.std()
    kinds = {node.op_type for node in onnx.load(target).graph.node}
    assert {"LayerNormalization", "DequantizeLinear" if how == "static" else "MatMulInteger"} <= kinds
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_weights_leave_room_for_a_cpu_that_adds_in_16_bits(written, tmp_path):
    """Full 8-bit weights overflow there without a word, and the file is right on the machine that made it alone."""
    import onnx

    model = tiny.resnet(8).eval()
    pixels = torch.randn(8, 3, tiny.SIZE, tiny.SIZE)
    written(model, pixels[:2], tmp_path / "model.onnx")
    quantize_static(tmp_path / "model.onnx", tmp_path / "eight.onnx", iter([pixels]))
    graph = onnx.load(tmp_path / "eight.onnx").graph
    weights = [onnx.numpy_helper.to_array(each) for each in graph.initializer]
    weights = [each for each in weights if each.dtype == np.int8 and each.ndim == 4]
    assert len(weights) > 3 and max(np.abs(each.astype(int)).max() for each in weights) == 64


def test_dynamic_is_refused_for_a_network_of_convolutions():
    """It leaves them in float32, and who asked for 8 bits would ship the size of before."""
    with pytest.raises(ValueError, match=r"which hold \d.*% of the parameters of this ResNet.* Take int8"):
        check_linear_share(tiny.resnet(8))
    check_linear_share(tiny.vit())


def test_what_cannot_be_exported_is_told_with_the_reason(tmp_path):
    """The exporter's own error is of two hundred lines."""

    class Branching(ResNetForImageClassification):
        def forward(self, pixel_values, **kwargs):
            if pixel_values.sum() > 0:
                pixel_values = pixel_values + 1
            return super().forward(pixel_values, **kwargs)

    model = Branching(tiny.resnet(8).config).eval()
    with pytest.raises(ValueError, match="torch cannot write Branching as ONNX: .*data-dependent"):
        write_onnx(model, torch.randn(2, 3, tiny.SIZE, tiny.SIZE), tmp_path / "model.onnx")
