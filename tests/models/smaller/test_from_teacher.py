"""Students that are made of their teachers, of every family of which they can be."""

import warnings

import pytest
import tiny
import torch
from torch import nn
from transformers import PvtConfig, PvtForImageClassification, ViTConfig, ViTForImageClassification

from hf_abkd import student_from_teacher
from hf_abkd.models.loadable import check_loadable
from hf_abkd.models.smaller.factors import Factors
from hf_abkd.models.smaller.from_teacher import made_from
from hf_abkd.models.start import start_of

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
ONE_HEAD = {"hidden_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1, "intermediate_size": 8}
BATCH_NORM = ("cifar_resnet", "mobilenet_v1", "mobilenet_v2", "resnet", "resnet_bottleneck")


def halves(teacher):
    """The smallest factors of a half that the family has."""
    return {"width": 0.5} if teacher.config.model_type.startswith("mobilenet") else {"depth": 0.5, "width": 0.5}


def test_factors_of_one_give_the_teacher(teacher):
    """Weights that go astray on the way are seen nowhere else: a smaller student answers otherwise anyway."""
    student = student_from_teacher(teacher)
    assert student.training and all(parameter.requires_grad for parameter in student.parameters())
    assert not tiny.differing(teacher.state_dict(), student.state_dict())
    assert student.config.to_dict() == teacher.config.to_dict() | {"dtype": student.config.to_dict()["dtype"]}
    with torch.no_grad():
        assert torch.equal(student.eval()(IMAGES).logits, teacher(IMAGES).logits)
    owned = {tensor.data_ptr() for tensor in teacher.state_dict().values()}
    assert not any(tensor.data_ptr() in owned for tensor in student.state_dict().values() if tensor.numel())


def test_halves_are_smaller_and_train_and_can_be_loaded(teacher):
    """A config that does not belong to its weights is found by whoever loads the student."""
    student, told = made_from(teacher, Factors(**halves(teacher)))
    assert student.num_parameters() < 0.6 * teacher.num_parameters()
    assert f"{len(student.state_dict())} of its {len(student.state_dict())} tensors (100.0 %" in told
    check_loadable(student)
    assert start_of(student).trained
    before = tiny.tensors(student)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01)
    student(IMAGES, labels=torch.arange(2)).loss.backward()
    optimizer.step()
    assert any("weight" in name for name in tiny.differing(before, tiny.tensors(student)))


@pytest.mark.parametrize("name", BATCH_NORM)
def test_layers_that_read_each_other_keep_the_same_channels(teacher_named, name):
    """Weights for one channel that meet another one are noise with the statistics of training.

    Where all other channels of the teacher are dead, those that are kept must be all that there is to its answers.
    """
    teacher = teacher_named(name)
    norms = {part: module for part, module in teacher.named_modules() if isinstance(module, nn.BatchNorm2d)}
    for norm in norms.values():
        norm.running_mean.copy_(torch.arange(len(norm.running_mean)))
    kept = dict(student_from_teacher(teacher, width=0.5).named_modules())
    for part, norm in norms.items():
        alive = kept[part].running_mean.long()
        assert len(set(alive.tolist())) == len(alive)
        dead = torch.ones(len(norm.weight), dtype=torch.bool).index_fill(0, alive, False)
        norm.reset_running_stats()
        norm.momentum = 1.0
        for tensor in (norm.weight.data, norm.bias.data):
            tensor[dead] = 0
    with torch.no_grad():
        teacher.train()(IMAGES)
    teacher.eval()
    student = student_from_teacher(teacher, width=0.5).eval()
    with torch.no_grad():
        theirs, ours = teacher(IMAGES).logits, student(IMAGES).logits
    assert theirs.std(0).min() > 0
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())


@pytest.mark.parametrize("name", ["vit", "beit", "convnext", "resnet"])
def test_tensors_are_the_first_slices_of_the_kept_blocks(teacher_named, name):
    """Names that are mapped to the wrong block, or channels from the middle, would be told by nothing else."""
    teacher = teacher_named(name)
    student = student_from_teacher(teacher, **halves(teacher))
    counts = {"vit": 6, "beit": 6, "convnext": 2, "resnet": 2}
    kept = {6: {"0": "0", "1": "3", "2": "5"}, 2: {"0": "0"}}[counts[name]]
    theirs = teacher.state_dict()
    for own, tensor in student.state_dict().items():
        parts = own.split(".")
        place = max((i for i, part in enumerate(parts) if part == "layers"), default=None)
        if place is not None:
            parts[place + 1] = kept[parts[place + 1]]
        source = theirs[".".join(parts)]
        assert torch.equal(tensor, source[tuple(map(slice, tensor.shape))]), own


def test_parts_that_lie_behind_one_another_keep_the_first_of_each(teacher_named):
    """Of four neighbours that are merged, the first half is two of them, whole, and not half of each."""
    teacher = teacher_named("swin")
    student = student_from_teacher(teacher, width=0.5)
    name = "swin.encoder.layers.0.downsample.reduction.weight"
    theirs = teacher.state_dict()[name].unflatten(1, (4, 16))
    assert torch.equal(student.state_dict()[name].unflatten(1, (4, 8)), theirs[:16, :, :8])
    name = "swin.encoder.layers.1.downsample.norm.bias"
    assert torch.equal(student.state_dict()[name].view(4, 16), teacher.state_dict()[name].view(4, 32)[:, :16])
    teacher = teacher_named("dinov2")
    student = student_from_teacher(teacher, width=0.5)
    theirs = teacher.classifier.weight.view(10, 2, 32)
    assert torch.equal(student.classifier.weight.view(10, 2, 16), theirs[:, :, :16])


def test_pairs_of_swin_stay_together(teacher_named):
    """The second of a pair shifts the windows: alone, it would be at the place of one that does not."""
    teacher = teacher_named("swin")
    student = student_from_teacher(teacher, depth=0.5)
    assert student.config.depths == [2, 2, 2, 2]
    for block in ("0", "1"):
        name = "swin.encoder.layers.2.blocks.{}.mlp.fc1.weight"
        assert torch.equal(student.state_dict()[name.format(block)], teacher.state_dict()[name.format(block)])


def test_a_third_of_the_blocks_of_a_resnet_56_is_a_resnet_20(teacher_named):
    """The networks of the papers, by the number of their layers."""
    small = teacher_named("cifar_resnet")
    config = type(small.config)(depth=56)
    teacher = type(small)(config)
    student = student_from_teacher(teacher, depth=0.33)
    assert student.config.depth == 20 and student.config.widths == [16, 32, 64]
    for ours, theirs in ((0, 0), (1, 4), (2, 8)):
        assert torch.equal(student.layer2[ours].conv2.weight, teacher.layer2[theirs].conv2.weight)


def test_the_head_has_the_rows_of_the_classes_of_the_data():
    """A head in the teacher's order says of every class that it is another one."""
    names = ["ant", "bee", "cat", "dog"]
    teacher = tiny.resnet(8, id2label=dict(enumerate(names)))
    student, told = made_from(teacher, Factors(1, 0.5), ["Dog", "bee"])
    assert student.config.id2label == {0: "Dog", 1: "bee"} and "new" not in told
    assert torch.equal(student.classifier[1].weight, teacher.classifier[1].weight[[3, 1], :16])
    assert torch.equal(student.classifier[1].bias, teacher.classifier[1].bias[[3, 1]])
    student, told = made_from(teacher, Factors(1, 0.5), ["ant", "eel", "cat"])
    assert student.config.num_labels == 3
    assert told.endswith("new and random, as its classes are not the teacher's: classifier.1.weight, classifier.1.bias")
    assert student.config.id2label == {0: "ant", 1: "eel", 2: "cat"} and teacher.config.num_labels == 4


def test_a_teacher_in_half_precision_makes_a_student_in_float32():
    """It would be trained in half precision, without a scale for its loss."""
    student = student_from_teacher(tiny.vit().to(torch.bfloat16), depth=0.5)
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}
    assert student.config.dtype == torch.float32


def test_families_that_are_not_known_are_refused_with_those_that_are():
    """Slices of a net whose parts belong together otherwise would look like weights, and be noise."""
    sizes = {"hidden_sizes": [8, 16, 24, 32], "depths": [2] * 4, "num_attention_heads": [1, 2, 3, 4]}
    teacher = PvtForImageClassification(PvtConfig(image_size=32, **sizes))
    with pytest.raises(ValueError, match=r"model type 'pvt'.*convnext.*vit_msn. Write a config.json"):
        student_from_teacher(teacher, depth=0.5)


@pytest.mark.parametrize(
    ("make", "factors", "told"),
    [
        (lambda: tiny.resnet(4), {"depth": 0.5}, "depth=0.5 leaves nothing out: the teacher has 1, 1 blocks"),
        (
            lambda: ViTForImageClassification(ViTConfig(**ONE_HEAD)),
            {"width": 0.5},
            "width=0.5 leaves nothing out: the teacher has num_",
        ),
        (tiny.vit, {"depth": 1.5}, "depth must be above 0 and at most 1"),
    ],
)
def test_factors_that_leave_nothing_out_are_refused(make, factors, told):
    """A student as large as the teacher costs as much, and nobody would be told."""
    with pytest.raises(ValueError, match=told):
        student_from_teacher(make(), **factors)


def test_depths_that_stand_in_the_code_and_uneven_heads_are_refused(teacher_named):
    """What cannot be had is told before weights are looked at."""
    with pytest.raises(ValueError, match="how many layers a mobilenet_v2 has stands in its code"):
        student_from_teacher(teacher_named("mobilenet_v2"), depth=0.5)
    teacher = teacher_named("swin")
    teacher.config.num_heads = [2, 3, 8, 16]
    with pytest.raises(ValueError, match=r"keeps 1 of the 2 heads.*no whole number of the 3"):
        student_from_teacher(teacher, width=0.5)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_teachers_without_weights_to_take_are_refused():
    """Whole numbers, adapters and modules without a config hold no weights that a smaller model could start from."""
    with warnings.catch_warnings(action="ignore"):
        quantised = torch.ao.quantization.quantize_dynamic(tiny.vit(), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(ValueError, match="made from a quantised teacher"):
        student_from_teacher(quantised, depth=0.5)
    teacher = tiny.vit()
    teacher.config.quantization_config = {"quant_method": "bitsandbytes"}
    with pytest.raises(ValueError, match="made from a quantised teacher"):
        student_from_teacher(teacher, depth=0.5)
    with pytest.raises(TypeError, match=r"transformers.PreTrainedModel.*the teacher is a Linear"):
        student_from_teacher(nn.Linear(2, 2), depth=0.5)
    with pytest.raises(TypeError, match="the teacher must be a torch.nn.Module, got str"):
        student_from_teacher("folder", depth=0.5)
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(tiny.vit(), peft.LoraConfig(target_modules=["q_proj"])).get_base_model()
    with pytest.raises(ValueError, match="with adapters: merge them"):
        student_from_teacher(adapted, depth=0.5)


def test_a_net_of_another_structure_than_its_model_type_tells_is_refused():
    """A class of one's own may say that it is a ViT."""
    teacher = tiny.vit()
    teacher.vit.layers[1].mlp.fc1 = nn.Linear(8, 12)
    with pytest.raises(ValueError, match=r"of its model type 'vit' a tensor 'vit.layers.1.mlp.fc1.weight'.*\(12, 8\)"):
        student_from_teacher(teacher)
    teacher.vit.layers[0].mlp.fc1 = nn.Identity()
    with pytest.raises(ValueError, match="it has no such tensor"):
        student_from_teacher(teacher, depth=0.5)
