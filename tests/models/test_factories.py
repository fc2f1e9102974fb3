import logging
import shutil
import sys

import pytest
import torch
from saved_models import LABELS, messages

from hf_abkd.models.student import load_student, student_config
from hf_abkd.models.teacher import load_teacher


@pytest.mark.parametrize("name", ["own_factories:plain", "own_package.nets:plain", "own_factories:lazy"])
def test_a_teacher_may_be_any_module_of_a_factory(factories, name):
    """A teacher that trains along, or in half precision on a CPU, is the same mistake wherever it comes from."""
    teacher = load_teacher(name, labels=LABELS)
    assert isinstance(teacher, torch.nn.Sequential)
    assert not any(module.training for module in teacher.modules())
    assert {(p.dtype, p.requires_grad) for p in teacher.parameters()} == {(torch.float32, False)}


def test_a_teacher_of_a_factory_keeps_its_head_and_tells_it(factories, logged):
    """As of a stored teacher, the class count is the first thing to compare."""
    assert load_teacher("own_factories:student", labels=["a", "b"]).config.id2label[2] == "owl"
    assert "has 3 classes, the data has 2" in logged.text


def test_a_student_of_a_factory_is_named_after_the_data(factories, logged):
    """The published student must say "owl" whatever made it, and train in float32."""
    student = load_student("own_factories:student", labels=LABELS)
    assert student.training
    assert {(p.dtype, p.requires_grad) for p in student.parameters()} == {(torch.float32, True)}
    assert "rename" not in logged.text
    student = load_student("own_factories:student", labels=["a", "b", "c"])
    assert student.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert student.config.label2id == {"a": 0, "b": 1, "c": 2}
    assert load_student("own_factories:student", labels=None).config.id2label == {0: "cat", 1: "dog", 2: "owl"}


def test_a_student_of_a_factory_with_reordered_classes_is_a_warning(factories, logged):
    """Only the factory knows whether its head is trained."""
    load_student("own_factories:reordered", labels=LABELS)
    (warning,) = messages(logged, logging.WARNING)
    assert "'own_factories:reordered': the model's head has the classes of the data in another order" in warning


def test_a_student_of_a_factory_needs_the_datas_class_count(factories):
    """A label of 3 in a head of 3 is an index error on a CPU, and on a GPU an assertion that names nothing."""
    with pytest.raises(ValueError, match=r"was made for 3 classes, the data has 4.*num_labels=4"):
        load_student("own_factories:student", labels=["a", "b", "c", "d"], ignore_mismatched_sizes=True)


def test_a_student_must_be_a_transformers_model(factories):
    """Any other is trained for hours before it turns out that it cannot be saved with a config."""
    for load in (load_student, student_config):
        with pytest.raises(TypeError, match=r"student 'own_factories:plain' is a Sequential; .*PreTrainedModel"):
            load("own_factories:plain", **({"labels": LABELS} if load is load_student else {}))


@pytest.mark.parametrize("load", [load_teacher, load_student])
@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("own_gone:make", ImportError, r"'own_gone' cannot be imported: No .* looked for in .*project and .*'.py'"),
        ("own_factories.py:plain", ImportError, r"'own_factories.py' cannot be imported: .*without '.py'"),
        ("own_needy:make", ImportError, r"'own_needy' cannot be imported: No module named 'own_absent'$"),
        ("own_factories:plein", ValueError, r"'own_factories' has no 'plein'; it has plain"),
        ("own_factories:x", ValueError, r"has no 'x'; it has ResNetConfig.* and \d more"),
        ("own_factories:model", TypeError, r"'model' is of type Linear; name a function without arguments"),
        ("own_factories:needs", TypeError, r"needs\(width, \*, depth\) is called without arguments: missing .*'width'"),
        ("own_factories:number", TypeError, r"returned int; it must return a torch.nn.Module"),
    ],
)
def test_a_wrong_factory_is_named(factories, load, name, kind, message):
    """With two models in one command, "No module named 'x'" does not tell which flag is wrong, or where was looked."""
    role = "teacher" if load is load_teacher else "student"
    with pytest.raises(kind, match=rf"{role} '{name}'.*{message}"):
        load(name, labels=LABELS)


def test_a_mistake_inside_a_factory_keeps_its_own_error(factories):
    """A report that the factory needs arguments would send its author to the wrong line."""
    with pytest.raises(TypeError, match=r"student\(\) takes from 0 to 2 positional"):
        load_teacher("own_factories:broken", labels=LABELS)


def test_a_module_keeps_what_it_puts_on_the_path(factories):
    """Many research repositories put their folders on the path, and import from them later."""
    (factories / "own_path.py").write_text("import sys\nsys.path.insert(0, 'extra')\nfrom own_factories import plain")
    load_teacher("own_path:plain", labels=None)
    assert sys.path.pop(0) == "extra"


def test_a_path_with_a_colon_is_a_path(factories, resnet):
    """A folder that exists must be loaded, not imported; one that does not must not be sought on the Hub."""
    shutil.move(resnet, factories / "own_factories:plain")
    assert load_teacher("own_factories:plain", labels=LABELS).config.num_labels == 3
    for name in ("nets/own.py:plain", "own-package.nets:plain", "own_package:", "a:b:c"):
        with pytest.raises(FileNotFoundError, match=rf"{name}': no such.*named 'package.module:factory'"):
            load_teacher(name, labels=LABELS)
