"""Forms of an export: which there are, and what is said of others."""

import importlib.util

import pytest

from hf_abkd.export import form as module
from hf_abkd.export.form import ExportForm


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("tflite",), "exported as safetensors or onnx, not as 'tflite'$"),
        (("gguf",), "not as 'gguf': what reads GGUF runs language models"),
        (("executorch",), "not as 'executorch': ExecuTorch is another package .* safetensors form"),
        (("safetensors", "int8"), "dtype is one of fp32, fp16, bf16, got 'int8'"),
        (("onnx", "fp64"), "dtype is one of fp32, fp16, got 'fp64'"),
        (("onnx", "bf16"), "onnx is written in fp32 or fp16, not in bf16"),
        (("safetensors", "fp32", "int8"), "quantize=int8 is of the format onnx, got 'safetensors'"),
        (("onnx", "fp16", "int8"), "made of weights in fp32; leave out dtype fp16"),
        (("onnx", "fp32", "int4"), "quantize is int8 or int8_dynamic, got 'int4'"),
    ],
)
def test_what_is_no_form_is_refused_by_name(words, told):
    """A user who asks for GGUF is to hear why there is none, not that a key is missing."""
    with pytest.raises(ValueError, match=told):
        ExportForm(*words)


def test_a_form_is_called_by_what_is_special_of_it():
    """Rows of a table that are called alike cannot be told apart."""
    forms = [("safetensors", "bf16"), ("onnx",), ("onnx", "fp16"), ("onnx", "fp32", "int8_dynamic")]
    assert [ExportForm(*words).name for words in forms] == [
        "safetensors bf16",
        "onnx fp32",
        "onnx fp16",
        "onnx int8_dynamic",
    ]


def test_a_package_that_is_missing_is_told_with_the_extra(monkeypatch):
    """`No module named onnxscript`, after a minute of loading, says nothing of what to install."""
    find = importlib.util.find_spec
    monkeypatch.setattr(module, "find_spec", lambda name: None if name.startswith("onnx") else find(name))
    with pytest.raises(ImportError, match=r"onnx, onnxruntime, onnxscript.: pip install 'hf_abkd\[onnx\]'"):
        ExportForm("onnx").check_packages()
    ExportForm("safetensors").check_packages()
