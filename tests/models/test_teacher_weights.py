"""How a teacher's weights are held: what is asked for is what is loaded, or refused before anything is loaded."""

import pytest
import torch
from tiny import resnet, vit
from torch import nn

from hf_abkd import load_teacher
from hf_abkd.models.arguments import ModelArguments
from hf_abkd.models.hub_options import HubOptions
from hf_abkd.models.placement import is_dispatched
from hf_abkd.models.teacher_weights import TeacherWeights
from hf_abkd.teachers.live import LiveTeacher


def settings(bits, model):
    return TeacherWeights(bits=bits).for_loading("teacher", model.config, HubOptions())["quantization_config"]


def test_a_teacher_is_held_in_the_precision_that_was_asked_for(tmp_path):
    """A flag that nobody reads leaves a teacher that does not fit, and nothing says so."""
    vit(8).save_pretrained(tmp_path)
    teacher = load_teacher(str(tmp_path), labels=None, dtype="bfloat16")
    assert {parameter.dtype for parameter in teacher.parameters()} == {torch.bfloat16}
    assert not teacher.training and not any(parameter.requires_grad for parameter in teacher.parameters())
    usual = load_teacher(str(tmp_path), labels=None)
    assert {parameter.dtype for parameter in usual.parameters()} == {torch.float32} and not is_dispatched(usual)


@pytest.mark.parametrize("bits", [8, 4])
def test_few_bits_are_for_linear_layers_but_the_last(bits):
    """The last layer makes the logits, and is small."""
    found = settings(bits, vit(8))
    assert (found.load_in_8bit, found.load_in_4bit) == (bits == 8, bits == 4)
    assert found.llm_int8_skip_modules == ["classifier"]


class FourBits(nn.Linear):
    """What a layer of bitsandbytes has that packs its weights in the first pass on a CPU."""

    def __init__(self):
        super().__init__(3, 4)
        self.support_avx512bf16_for_cpu = True


def test_layers_in_4_bits_stay_as_they_were_stored():
    """Packed in the first pass and unpacked by `state_dict`, they are other weights each time, of another teacher."""
    layer = FourBits()
    LiveTeacher(layer)
    assert layer.support_avx512bf16_for_cpu is False


def test_a_network_of_convolutions_is_not_held_in_few_bits():
    """It would be loaded as ever, and a user would believe that it takes a quarter of the memory."""
    with pytest.raises(ValueError, match="no linear layer beside its last one that could be held in 8 bits"):
        settings(8, resnet(4))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"teacher_dtype": "int8"}, r"must be one of \['float32', 'bfloat16', 'float16'\], got 'int8'"),
        ({"teacher_bits": 3}, "must be 8 or 4, or None"),
        ({"teacher_device_map": "{disk}"}, r"no JSON.*\{\"\": \"disk\"\}"),
        ({"teacher_device_map": " "}, "device_map of a teacher is empty"),
    ],
)
def test_flags_that_are_not_possible_are_refused_by_their_names(wrong, said):
    """A run that ends after its teacher was loaded has wasted minutes of a large machine."""
    with pytest.raises(ValueError, match=f"--teacher_dtype, --teacher_device_map, --teacher_bits: .*{said}"):
        ModelArguments(teacher_name_or_path="t", **wrong)


def test_flags_become_what_load_teacher_takes():
    """A device map is text on a command line, and layers by name in transformers."""
    flags = ModelArguments(teacher_name_or_path="t", teacher_device_map='{"vit": "cpu", "classifier": "disk"}')
    assert flags.teacher_weights == TeacherWeights(device_map={"vit": "cpu", "classifier": "disk"})
    assert ModelArguments(teacher_name_or_path="t", teacher_device_map="auto").teacher_weights.device_map == "auto"
    assert ModelArguments().teacher_weights.as_usual


def test_weights_of_nobody_are_refused():
    """A flag that has no effect is a misunderstanding."""
    with pytest.raises(ValueError, match="name it, --teacher_name_or_path"):
        ModelArguments(teacher_bits=8)
    with pytest.raises(ValueError, match="needs whole and in float32"):
        ModelArguments(teacher_name_or_path="t", student_from_teacher="depth=0.5", teacher_dtype="bfloat16")


def test_a_function_says_itself_how_its_teacher_is_held():
    """What a function made is not loaded, so a device map would have no effect."""
    with pytest.raises(ValueError, match="is made by a function, which says itself"):
        load_teacher("tiny:resnet", labels=None, device_map="auto")
