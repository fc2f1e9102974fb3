"""A run stops where something is not finite, says what and where, and keeps the last good checkpoint."""

import pytest
import torch
from accelerate import Accelerator
from adaptation_runs import adapting
from killed_runs import augmented
from tiny import RESNET_LAYERS, images, resnet
from tiny_runs import boundaries, pieces, trainer_of
from torch import nn
from transformers import TrainerCallback

from hf_abkd import CrossEntropy, Objective, Stage, Term
from hf_abkd.training.finiteness import FiniteWatch
from hf_abkd.training.life import checkpoints
from hf_abkd.training.progress import Span

IDS = 100


class Rows:
    """Images with ids from 100, of which some are spoilt."""

    def __init__(self, spoilt=(), count=32):
        self.rows, self.spoilt = images(count), spoilt

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        found = dict(self.rows[row])
        if row in self.spoilt:
            found["pixel_values"] = torch.full_like(found["pixel_values"], float("nan"))
        return {**found, "sample_id": IDS + row}


class Spoil(TrainerCallback):
    """Do something to the run when so many steps are done."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            self.action()


def spoil(parameter):
    """Put a number that is none into a tensor."""
    with torch.no_grad():
        parameter.view(-1)[0] = float("nan")


class Broken(Objective):
    """Is not finite from its third call on."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, student, teacher):
        self.calls += 1
        return (student - teacher).square().mean() * (float("inf") if self.calls > 3 else 1.0)


def alone(folder, callbacks=(), **settings):
    """A run of one term, which logs and saves."""
    saving = {"max_steps": 8, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 1, "data": Rows()}
    return trainer_of(folder, resnet(4), None, None, callbacks=callbacks, **{**saving, **settings})


def stopped(trainer):
    """What a run says that stops; its checkpoints are good and its log finite."""
    with pytest.raises(RuntimeError) as caught:
        trainer.train()
    entries = trainer.state.log_history
    assert all(value == value for entry in entries for value in entry.values() if isinstance(value, float))
    return str(caught.value)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint_before(tmp_path):
    """It went on, logged a mean of earlier losses, and saved a student of nothing over the last good one."""
    trainer = alone(tmp_path)
    trainer.add_callback(Spoil(4, lambda: spoil(trainer.model.classifier[1].weight)))
    assert "step 4: after it 'student.classifier.1.weight' of the trained weights are not finite" in stopped(trainer)
    assert [path.name for path in checkpoints.checkpoints(tmp_path)] == ["checkpoint-2"]
    assert checkpoints.incomplete(tmp_path / "checkpoint-2") is None


def test_the_last_step_is_looked_at_too(tmp_path):
    """Nothing comes after it: the run would end well, and its student be saved."""
    trainer = alone(tmp_path, max_steps=3, save_strategy="no", logging_strategy="no")
    trainer.add_callback(Spoil(3, lambda: spoil(trainer.model.classifier[1].bias)))
    assert "step 3: after it 'student.classifier.1.bias'" in stopped(trainer)


def test_weights_that_a_step_spoilt_are_found_in_the_next_one(tmp_path):
    """A gradient may be none where the loss is still a number; a large learning rate does the same."""
    trainer = alone(tmp_path, learning_rate=1e12, save_strategy="no", optim="sgd", max_grad_norm=0)
    assert "step 2: of the terms, 'cross_entropy' (student 'logits', labels) is inf" in stopped(trainer)


def test_a_term_that_is_not_finite_is_named_with_its_stage(tmp_path):
    """A run has many terms and stages, and the sum of them says nothing of which it was."""
    student, teacher = RESNET_LAYERS[0]
    terms = [Term(Broken(), student=student, teacher=teacher, connector="map"), Term(CrossEntropy())]
    said = stopped(
        trainer_of(tmp_path, stages=[Stage([Term(CrossEntropy())], steps=2), Stage(terms, name="second")], max_steps=8)
    )
    assert said.startswith("stage 2/2 second, step 3: of the terms, 'Broken/") and "is inf" in said and student in said


def test_an_image_that_is_not_finite_is_named_by_its_id(tmp_path):
    """Among a million images nobody finds the one whose file was damaged."""
    said = stopped(alone(tmp_path, data=Rows(spoilt=[17])))
    assert f"the images are not finite for the samples {IDS + 17};" in said
    assert "step " in said and "the student's logits are not finite for any image" in said


def test_a_teacher_that_is_not_finite_stops_a_run_of_boundaries_before_its_first_step(tmp_path):
    """Of a boundary nothing shows: the side of what is not a number is the one below 0."""
    student, teacher, _ = pieces("resnet")
    spoil(teacher.resnet.encoder.stages[0].layers[0].layer[0].convolution.weight)
    stages = [Stage(boundaries(RESNET_LAYERS))]
    said = stopped(trainer_of(tmp_path, student, teacher, stages, evaluate_teacher=False))
    assert "the teacher is not finite in" in said and RESNET_LAYERS[0][1].split(":")[0] in said


def test_a_teacher_that_stops_being_finite_is_named_with_layer_and_samples(tmp_path):
    """Half precision overflows for some images only, and the sides of these would be taught as 0 for ever."""
    student, teacher, _ = pieces("resnet")
    spoilt = {"now": False}

    def overflow(module, given, output):
        if spoilt["now"]:
            output = output.clone()
            output[1] = float("inf")
        return output

    teacher.resnet.embedder.register_forward_hook(overflow)
    trainer = trainer_of(
        tmp_path, student, teacher, [Stage(boundaries(RESNET_LAYERS))], data=Rows(), max_steps=6, evaluate_teacher=False
    )
    trainer.add_callback(Spoil(3, lambda: spoilt.update(now=True)))
    said = stopped(trainer)
    assert "step 4: the teacher's " in said and said.count("for the samples 1") == 2 and "of the terms" not in said


def test_a_teacher_that_is_trained_is_looked_at_too(tmp_path):
    """It runs inside of the trained module, where no one else sees what it says."""
    trainer = adapting(tmp_path, max_steps=4)
    trainer.add_callback(Spoil(2, lambda: spoil(trainer.teacher.model.classifier[1].weight)))
    said = stopped(trainer)
    assert "step 3: the teacher's tensors are not finite" in said


def test_a_teacher_that_is_not_finite_is_not_measured(tmp_path):
    """Its accuracy is that of the first class, which reads like a bad teacher."""
    student, teacher, stages = pieces("resnet")
    spoil(teacher.classifier[1].weight)
    trainer = augmented(tmp_path, student, teacher, stages, evaluate_teacher=True)
    with pytest.raises(RuntimeError, match="the teacher's logits are not finite for 8 of 8 evaluation images"):
        trainer.evaluate_teacher()


def test_batches_are_looked_at_together_where_looking_waits_for_the_device(tmp_path):
    """A look in each step would hold up the device; a run that is logged seldom must stop all the same."""
    trainer = alone(tmp_path, save_strategy="no", logging_strategy="no", max_steps=60)
    looks = []

    def look_seldom():
        watch = trainer._running_step.watch
        watch._alone = False
        check = watch.check
        watch.check = lambda *module: (looks.append(len(watch._kept)), check(*module))

    trainer.add_callback(Spoil(1, look_seldom))
    trainer.add_callback(Spoil(20, lambda: spoil(trainer.model.classifier[1].weight)))
    assert "step 21: " in stopped(trainer)
    assert looks == [50]


def test_a_scaler_that_skips_steps_does_not_stop_a_run():
    """Half precision begins with a scale that is too large: gradients that overflow are its normal way."""
    module = nn.Linear(2, 2)
    module.weight.grad = torch.full((2, 2), float("inf"))
    watch = FiniteWatch(Span(0, 1, "", 0, 4, 0, 1, 8), ["term"], ["layer"], Accelerator(cpu=True))
    watch.add(1, {"layers": torch.ones(1), "terms": torch.ones(1)}, {"the images": torch.ones(4)}, None)
    watch.check(module)
