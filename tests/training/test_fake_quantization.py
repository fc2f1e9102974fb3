"""A student that is trained as it will compute in 8 bits is published as any other, and resumes as any other."""

import importlib.util
from dataclasses import replace

import pytest
import torch
from launched import in_two_processes
from safetensors.torch import load_file
from tiny import SIZE, differing, images, resnet, tensors, vit
from tiny_runs import (
    Interrupt,
    accuracy,
    assert_equal,
    entries,
    hooks,
    outcome,
    pieces,
    taught,
    trainer_of,
    two_stages,
)
from transformers import ResNetForImageClassification

from hf_abkd import DistillationArguments, Stage
from hf_abkd.export.eight_bits import quantize_static
from hf_abkd.export.onnx_file import write_onnx
from hf_abkd.training import fake_quantization
from hf_abkd.training.fake_quantization import FakeQuantization

needs_torchao = pytest.mark.skipif(
    importlib.util.find_spec("torchao") is None, reason="the extra quantization is not installed"
)
INT8 = {"quantize_aware": "int8"}


def quantized_trainer(folder, kind="resnet", stages=..., **how):
    student, teacher, both = pieces(kind)
    settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, **how}
    return trainer_of(folder, student, teacher, both if stages is ... else stages, **settings)


def measured(folder, **settings):
    """A trainer of one stage that is evaluated."""
    evaluation = {"eval_dataset": images(32, seed=5), "compute_metrics": accuracy}
    return trainer_of(folder, stages=[Stage(taught())], extra=evaluation, max_steps=4, **settings)


def named(model):
    """The layers of a model that are quantised."""
    return fake_quantization.quantized_layers(model, [DistillationArguments(output_dir="unused", **INT8)])


# ---- What is rounded ----


@needs_torchao
@pytest.mark.parametrize("layer", [torch.nn.Linear(6, 4), torch.nn.Conv2d(3, 4, 3)], ids=["linear", "convolution"])
def test_weights_and_inputs_are_rounded_to_the_grid_of_an_export(layer):
    """A student that is trained for another grid than it is exported on learns to stand the wrong error."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(layer)
    given = torch.randn(2, 6) if isinstance(layer, torch.nn.Linear) else torch.randn(2, 3, 5, 5)
    weight = layer.weight.detach().clone()
    with FakeQuantization(named(model)).in_training(model):
        said = model(given)
    # 7 bits with a sign and no zero point for the weights of each output, 8 bits without a sign for the input.
    scale = weight.abs().flatten(1).amax(1).reshape(-1, *[1] * (weight.ndim - 1)) / 64
    low, high = given.min(), given.max()
    step = (high - low) / 255
    rounded = ((given / step).round() + (-low / step).round()).clamp(0, 255) - (-low / step).round()
    plain = torch.nn.functional.linear if weight.ndim == 2 else torch.nn.functional.conv2d
    torch.testing.assert_close(said, plain(rounded * step, (weight / scale).round() * scale, layer.bias))
    assert (said - plain(given, weight, layer.bias)).abs().max() > 1e-4


@needs_torchao
def test_an_exported_file_has_the_scales_that_training_had(tmp_path):
    """The numbers above are the grid of the export as it is today: another version of onnxruntime may choose others."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    student, pixels = vit(8).eval(), torch.rand(4, 3, SIZE, SIZE)
    quantization = FakeQuantization(named(student))
    with quantization.in_training(student):
        student(pixels)
    write_onnx(student, pixels, tmp_path / "float.onnx")
    quantize_static(tmp_path / "float.onnx", tmp_path / "int8.onnx", iter([pixels]))
    held = [onnx.numpy_helper.to_array(one) for one in onnx.load(tmp_path / "int8.onnx").graph.initializer]
    scales = [torch.tensor(one) for one in held if one.dtype == "float32"]
    for quantizers, exact in ((quantization.weights, 1e-6), (quantization.inputs, 0.02)):
        for name, quantizer in zip(quantization.layers, quantizers, strict=True):
            ours = quantizer.scale
            alike = [one for one in scales if one.numel() == ours.numel()]
            nearest = min(((one.flatten() - ours).abs().max() / ours.max()).item() for one in alike)
            # What was rounded before moves the ranges of activations behind it a little.
            assert nearest < exact, name


@needs_torchao
def test_gradients_pass_by_the_rounding_and_reach_every_parameter():
    """Rounding has a gradient of zero almost everywhere: a student would not learn at all."""
    student = resnet(4)
    with FakeQuantization(named(student)).in_training(student):
        student(torch.randn(4, 3, SIZE, SIZE)).logits.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in student.parameters())


@needs_torchao
def test_nothing_is_left_of_it_even_after_an_error():
    """A hook that stays would round the weights of a student that is published as one in floating point."""
    student = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))
    before = tensors(student)
    with pytest.raises(RuntimeError, match="channels"), FakeQuantization(named(student)).in_training(student):
        student(torch.zeros(2, 5, 16, 16))
    assert hooks(student) == [] and "weight" not in student[0].__dict__
    assert differing(before, tensors(student)) == []


# ---- A run ----


@needs_torchao
@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_a_resumed_run_is_the_one_that_was_never_stopped(tmp_path, kind):
    """Ranges of activations that are lost make another student, and nothing would say so."""
    whole = quantized_trainer(tmp_path / "whole", kind, **INT8)
    whole.train()
    stopped = quantized_trainer(tmp_path / "stopped", kind, **INT8)
    stopped.add_callback(Interrupt(4))
    stopped.train()
    resumed = quantized_trainer(tmp_path / "stopped", kind, **INT8)
    resumed.train(resume_from_checkpoint=True)
    assert_equal(outcome(resumed), outcome(whole))
    assert whole._quantization.has_seen


@needs_torchao
def test_what_is_saved_is_the_plain_student_in_floating_point(tmp_path):
    """Quantisers in the weights file would make a student that plain transformers cannot load."""
    trainer = quantized_trainer(tmp_path, **INT8)
    names = list(trainer.model.state_dict())
    trainer.train()
    trainer.save_model()
    assert list(trainer.model.state_dict()) == names
    assert set(load_file(tmp_path / "model.safetensors")) == set(names)
    loaded = ResNetForImageClassification.from_pretrained(tmp_path)
    assert differing(tensors(loaded), tensors(trainer.model)) == []
    assert hooks(trainer.model) == []


@needs_torchao
def test_training_for_8_bits_is_another_training():
    """The comparisons above would be worthless if the quantisers were never at work."""
    torch.manual_seed(0)
    student = vit(8).eval()
    pixels = torch.randn(4, 3, SIZE, SIZE)
    plain = student(pixels).logits
    quantization = FakeQuantization(named(student))
    with quantization.in_training(student):
        rounded = student(pixels).logits
        with quantization.off():
            torch.testing.assert_close(student(pixels).logits, plain, rtol=0, atol=0)
    assert (rounded - plain).abs().max() > 1e-4
    with quantization.in_evaluation(student):
        torch.testing.assert_close(student(pixels).logits, rounded)


@needs_torchao
def test_an_evaluation_tells_both_accuracies_and_moves_no_range(tmp_path):
    """One number would be taken for the other, and ranges that evaluation images move are learnt from these."""
    trainer = measured(tmp_path, eval_strategy="steps", eval_steps=2, **INT8)
    trainer.train()
    before = tensors(trainer._quantization)
    scores = trainer.evaluate()
    assert differing(before, tensors(trainer._quantization)) == []
    assert {"eval_accuracy", "eval_int8_accuracy", "eval_loss", "eval_int8_loss"} <= set(scores)
    assert scores["eval_int8_loss"] != scores["eval_loss"]
    assert len(entries(trainer, "eval_int8_accuracy")) == 3
    # The first of the two is that of what is saved.
    plain = trainer_of(tmp_path / "plain", trainer.model, stages=[Stage(taught())], extra={"compute_metrics": accuracy})
    assert plain.evaluate(images(32, seed=5))["eval_loss"] == scores["eval_loss"]


@needs_torchao
def test_one_stage_alone_can_be_trained_for_8_bits(tmp_path):
    """The usual way is a last stage of it: the stages before would be another training than without it."""
    boundaries, logits = two_stages()
    plain = quantized_trainer(tmp_path / "plain", stages=[boundaries, logits])
    plain.train()
    both = quantized_trainer(tmp_path / "both", stages=[boundaries, replace(logits, arguments=INT8)])
    both.train()
    assert entries(both, "loss")[:1] == entries(plain, "loss")[:1]
    assert entries(both, "loss")[-1:] != entries(plain, "loss")[-1:]


# ---- What is refused ----


@pytest.mark.parametrize("given", ["int4", True, 8])
def test_another_grid_is_refused(tmp_path, given):
    """A word that is passed over leaves a student that was never trained for its form."""
    with pytest.raises(ValueError, match="quantize_aware must be int8"):
        DistillationArguments(output_dir=str(tmp_path), quantize_aware=given)
    with pytest.raises(ValueError, match="quantize_aware"):
        Stage(taught(), arguments={"quantize_aware": given})


def test_without_torchao_the_extra_is_named_before_training(tmp_path, monkeypatch):
    """An import error after the first stage wastes it, and does not say what to install."""
    monkeypatch.setattr(fake_quantization, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"hf_abkd\[quantization\]"):
        trainer_of(tmp_path, **INT8)


def test_settings_that_lose_the_ranges_are_refused(tmp_path, monkeypatch):
    """Activations that are computed twice are followed twice, the second time with another range."""
    monkeypatch.setattr(fake_quantization, "find_spec", lambda name: True)
    how = {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": False}}
    with pytest.raises(ValueError, match="activation_checkpointing do not go together"):
        trainer_of(tmp_path, **INT8, **how)


@needs_torchao
@pytest.mark.slow
def test_two_processes_resume_with_the_ranges_that_both_went_on_with(tmp_path):
    """Each process sees other images, and a checkpoint has the ranges of the first one alone."""
    in_two_processes("quantized_runs.py", tmp_path)
    for rank in range(2):
        straight, resumed = torch.load(tmp_path / f"rank{rank}.pt")
        assert differing(straight, resumed) == []
