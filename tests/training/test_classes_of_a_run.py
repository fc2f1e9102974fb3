"""The names of classes: those of the data, of the student and of the teacher."""

import logging

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from PIL import Image
from tiny import SIZE, arguments, resnet
from tiny_runs import AS_IT_IS
from torch import nn
from torch.utils.data import ConcatDataset, Subset
from transformers import ResNetConfig, ViTImageProcessorPil

from hf_abkd import (
    ActivationBoundary,
    DistillationTrainer,
    ImageTransform,
    Stage,
    Term,
    knowledge_distillation,
    prepare,
)
from hf_abkd.training.classes import RunClasses

ANIMALS = ["cat", "dog", "owl", "fox"]
FOLDERS = sorted(map(str, range(12)))
NUMBERS = list(map(str, range(12)))


def coded(names, count=96):
    """Images that hold the number of their class in every pixel, by the names' own order."""
    labels = [index % len(names) for index in range(count)]
    pixels = [[float(sorted(names, key=_natural).index(names[label]))] * (3 * SIZE * SIZE) for label in labels]
    features = Features({"pixel_values": Sequence(Value("float32")), "labels": ClassLabel(names=names)})
    return Dataset.from_dict({"pixel_values": pixels, "labels": labels}, features=features).with_transform(shaped)


def _natural(name):
    return (int(name), "") if name.isdigit() else (0, name)


def shaped(rows):
    """Give images their shape."""
    return {**rows, "pixel_values": [torch.tensor(pixels).view(3, SIZE, SIZE) for pixels in rows["pixel_values"]]}


class Oracle(nn.Module):
    """A teacher that reads the class off the pixels, and answers by numbers of its own."""

    def __init__(self, order, names=None):
        super().__init__()
        self.order = torch.tensor(order)
        self.stage = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.config = ResNetConfig(num_labels=len(order))
        if names:
            self.config.id2label = dict(enumerate(names))

    def forward(self, pixels):
        """Return the logits."""
        codes = (pixels + 0 * self.stage(pixels).mean()).mean((1, 2, 3)).round().long()
        return 9.0 * torch.eye(len(self.order))[self.order[codes]]


def student(names=None, classes=4):
    """A student, with names or without."""
    model = resnet(4, classes=len(names) if names else classes)
    if names:
        model.config.id2label = dict(enumerate(names))
        model.config.label2id = {name: index for index, name in enumerate(names)}
    return model


def run(folder, model, data, teacher=None, evaluated=None, **settings):
    """A run of one step, by the teacher's logits or by the labels alone."""
    return DistillationTrainer(
        model,
        arguments(folder, **{"max_steps": 1, "evaluate_teacher": True, **AS_IT_IS, **settings}),
        teacher=teacher,
        stages=knowledge_distillation() if teacher else None,
        train_dataset=data,
        eval_dataset=evaluated,
    )


# Data and student ----------------------------------------------------------------------------------------------------


def test_a_student_without_names_gets_those_of_the_data(tmp_path):
    """It was published with LABEL_0, LABEL_1, and whoever loads it does not know what it says."""
    trainer = run(tmp_path, student(), coded(ANIMALS))
    trainer.train()
    assert trainer.model.config.id2label == dict(enumerate(ANIMALS))
    assert trainer.model.config.label2id["fox"] == 3


@pytest.mark.parametrize("names", [["dog", "cat", "owl", "fox"], ["elk", "Cat", "owl", "fox"]])
@pytest.mark.parametrize("wrap", [lambda data: data, lambda data: Subset(data, range(8))], ids=["whole", "subset"])
def test_a_student_with_the_names_at_other_numbers_is_refused(tmp_path, names, wrap):
    """It would reach an accuracy of 1.0 and call every cat a dog."""
    with pytest.raises(
        ValueError, match="another order than the data numbers them: class 0 is .*align_labels"
    ) as error:
        run(tmp_path, student(names), wrap(coded(ANIMALS))).train()
    assert f"student's: {names}".replace("'", '"') in str(error.value).replace("'", '"')
    assert "data's: ['cat', 'dog', 'owl', 'fox']" in str(error.value)


def test_other_names_are_told_of_and_kept(tmp_path, caplog):
    """They may be a translation, or those of the model that the student was."""
    trainer = run(tmp_path, student(["chat", "chien", "hibou", "renard"]), coded(ANIMALS))
    trainer.train()
    assert "class 0 is 'chat' in the one and 'cat' in the other" in caplog.text
    assert trainer.model.config.id2label[0] == "chat"
    caplog.clear()
    run(tmp_path / "spelling", student(["Cat", "DOG", "owl", "fox "]), coded(ANIMALS)).train()
    assert "other names" not in caplog.text


def test_labels_that_a_transform_renumbers_are_not_those_of_the_column(tmp_path):
    """Whoever brought the labels into the student's order would be told that they are in another."""
    data = coded(ANIMALS).with_transform(lambda rows: {**shaped(rows), "labels": [3 - n for n in rows["labels"]]})
    trainer = run(tmp_path, student(ANIMALS[::-1]), data)
    trainer.train()
    assert trainer.model.config.id2label == dict(enumerate(ANIMALS[::-1]))


@pytest.mark.parametrize("names", [ANIMALS[::-1], ["dog", "cat"]])
def test_an_evaluation_set_in_another_order_is_refused(tmp_path, names):
    """Every right answer would count as a wrong one, and the best model would be the worst."""
    with pytest.raises(ValueError, match=r"evaluation set numbers its classes otherwise.*'cat', 'dog', 'owl', 'fox'"):
        run(tmp_path, student(), coded(ANIMALS), evaluated={"all": coded(ANIMALS), "some": coded(names)}).train()
    with pytest.raises(ValueError, match="evaluation set numbers its classes otherwise"):
        run(tmp_path, student(), coded(ANIMALS)).evaluate(coded(names))
    with pytest.raises(ValueError, match="parts of the data set have other class names"):
        run(tmp_path, student(), ConcatDataset([coded(ANIMALS), coded(names)])).train()


def test_labels_of_an_evaluation_set_are_looked_at_before_the_first_step(tmp_path):
    """After an epoch the run would end with an error, and be lost."""
    rows = [{"pixel_values": torch.zeros(3, SIZE, SIZE), "labels": torch.ones(4)}] * 2
    with pytest.raises(ValueError, match="multi-label"):
        run(tmp_path, student(), coded(ANIMALS), evaluated=rows).train()


@pytest.mark.parametrize("streams", [False, True])
def test_names_are_found_behind_the_transform_of_images(tmp_path, streams):
    """A stream forgets its columns when they are replaced."""
    names = {"image": [Image.new("RGB", (SIZE, SIZE))] * 4, "kind": [0, 1, 1, 0], "label": [0, 1, 2, 3]}
    data = Dataset.from_dict(names).cast_column("kind", ClassLabel(names=["dog", "cat"]))
    data = data.cast_column("label", ClassLabel(names=ANIMALS))
    processor = ViTImageProcessorPil(size={"height": SIZE, "width": SIZE})
    data = prepare(data.to_iterable_dataset() if streams else data, ImageTransform(processor, label_column="kind"))
    trainer = run(tmp_path, student(classes=2), data)
    trainer.setup  # noqa: B018
    assert trainer.model.config.id2label == {0: "dog", 1: "cat"}


# Data, student and teacher -------------------------------------------------------------------------------------------


def test_a_teachers_names_are_matched_with_the_datas_where_the_student_has_none(tmp_path):
    """The student's missing names made the teacher's order an assumption, though the data has them."""
    trainer = run(tmp_path, student(), coded(ANIMALS), Oracle([2, 0, 1, 3], ["dog", "fox", "cat", "owl"]))
    assert trainer.label_match().kind == "permuted"
    trainer.train()
    assert trainer.setup.labels.teacher_classes == (2, 0, 3, 1)


def test_names_of_the_student_that_are_the_teachers_count_beside_the_datas(tmp_path):
    """Student and teacher of one language, and data of another."""
    french = ["chat", "chien", "hibou", "renard"]
    assert run(tmp_path, student(french), coded(ANIMALS), Oracle([0, 1, 2, 3], french)).label_match().kind == "same"
    mixed = [*french, *ANIMALS[::-1]]
    with pytest.raises(ValueError, match=r"others by the names of the student than by those of the data"):
        run(tmp_path, student(french), coded(ANIMALS), Oracle(range(8), mixed)).label_match()


@pytest.mark.parametrize("learnt", [NUMBERS, FOLDERS], ids=["as numbers", "as text"])
@pytest.mark.parametrize("named", [None, NUMBERS], ids=["no names", "numbered"])
def test_a_teacher_of_numbered_folders_is_matched_by_its_answers(tmp_path, learnt, named, caplog):
    """Sorted as text, class 2 is folder "10": a student was taught permuted classes, and the doctor said ok."""
    order = [learnt.index(name) for name in NUMBERS]
    if named and learnt is FOLDERS:
        # Its names say numbers, and it has learnt them as text: they are wrong.
        with pytest.raises(ValueError, match="another order than is known of them"):
            run(tmp_path, student(classes=12), coded(FOLDERS), Oracle(order, named)).evaluate_teacher(coded(FOLDERS))
        return
    trainer = run(tmp_path, student(classes=12), coded(FOLDERS), Oracle(order, named))
    trainer.train()
    match = trainer.setup.labels
    places = dict(zip(match.student_classes, match.teacher_classes, strict=True))
    assert [learnt[places[label]] for label in range(12)] == FOLDERS
    assert trainer.evaluate_teacher(coded(FOLDERS))["teacher_accuracy"] == 1.0
    assert ("matched by the numbers in their names" in caplog.text) is (learnt is NUMBERS and not named)


def test_numbered_folders_without_evidence_are_refused_where_logits_are_compared(tmp_path):
    """Neither order is taken in silence; layers have no classes."""
    data, teacher = coded(FOLDERS), Oracle([5] * 12)
    with pytest.raises(ValueError, match=r"either of two orders.*'0', '1', '10'.*of 80 images.*is right on 8"):
        run(tmp_path, student(classes=12), data, teacher).train()
    trainer = run(tmp_path, student(classes=12), data, teacher)
    layers = {"student": "resnet.encoder.stages.0", "teacher": "stage"}
    stages = [Stage([Term(ActivationBoundary(), **layers)])]
    DistillationTrainer(student(classes=12), trainer.args, teacher=teacher, stages=stages, train_dataset=data).setup  # noqa: B018


def test_a_teacher_that_is_refused_costs_no_other_run(tmp_path):
    """With `overwrite_output_dir` the checkpoints of before would be gone for a run that never began."""
    run(tmp_path, student(), coded(ANIMALS), save_strategy="steps", save_steps=1).train()
    again = run(tmp_path, student(), coded(ANIMALS), Oracle([1, 2, 3, 0]), overwrite_output_dir=True)
    with pytest.raises(ValueError, match="another order than is known of them"):
        again.train()
    assert (tmp_path / "checkpoint-1").is_dir()


@pytest.mark.parametrize("evaluated", [0, 2, 96])
def test_a_teacher_whose_answers_show_another_order_is_refused(tmp_path, evaluated):
    """Names that are missing were assumed at a level of the log that nobody reads."""
    data, teacher = coded(ANIMALS), Oracle([1, 2, 3, 0])
    with pytest.raises(ValueError, match=r"takes images of.*right on 0\.0%.*stood for 0: 'owl'.*\['cat', 'dog'"):
        run(tmp_path, student(), data, teacher, evaluated=coded(ANIMALS, evaluated) if evaluated else None).train()
    run(tmp_path / "on", student(), data, teacher, evaluate_teacher=False).train()


def test_a_teacher_that_guesses_is_told_of_without_an_evaluation_set(tmp_path, caplog):
    """Its order is an assumption, and nothing else would test it."""
    run(tmp_path, student(), coded(ANIMALS), Oracle([0] * 4)).train()
    assert "On 96 images of the training set its accuracy is 0.250" in caplog.text
    caplog.clear()
    run(tmp_path / "named", student(), coded(ANIMALS), Oracle(range(4), ["cat", "dog", "fox", "owl"])).train()
    assert "training set" not in caplog.text


def test_two_mappings_of_the_teacher_that_disagree_are_told_of(tmp_path, caplog):
    """A card reads the one, and a pipeline the other."""
    teacher = Oracle(range(4), ["cat", "dog", "fox", "owl"])
    teacher.config.label2id = {"cat": 1, "dog": 0, "fox": 2, "owl": 3}
    with caplog.at_level(logging.WARNING):
        run(tmp_path, student(), coded(ANIMALS), teacher).label_match()
    assert "other numbers to the same names: 'cat' (0 and 1), 'dog' (1 and 0)" in caplog.text


def test_two_mappings_of_the_student_are_made_to_agree(tmp_path, caplog):
    """It would be published with both."""
    model = student(ANIMALS)
    model.config.label2id = {name: 3 - index for index, name in enumerate(ANIMALS)}
    run(tmp_path, model, coded(ANIMALS)).train()
    assert model.config.label2id == {"cat": 0, "dog": 1, "owl": 2, "fox": 3}
    assert "of the student's config" in caplog.text
    model.config.id2label = None
    with pytest.raises(ValueError, match=r"config.id2label is None.*dict\(enumerate\(names\)\)"):
        run(tmp_path, model, coded(ANIMALS))


def test_only_one_process_speaks(tmp_path, caplog):
    """Eight processes would say it eight times."""
    trainer = run(tmp_path, student(["a", "b", "c", "d"]), coded(ANIMALS))
    RunClasses(trainer.task, trainer.source, lambda: (trainer.train_dataset, None), trainer._read_rows, False).check(
        trainer.model
    )
    assert caplog.text == ""
