"""Runs in one process do not change each other: after an error, a second time, in turn, one inside another."""

import pytest
from tiny import arguments, differing, images, losses, resnet, tensors
from tiny_runs import LEAN, hooks, trained_tensors, trainer_of, two_stages
from torch import nn
from transformers import TrainerCallback

from hf_abkd import (
    DistillationTrainer,
    Objective,
    Stage,
    Term,
    knowledge_distillation,
)


class Break(TrainerCallback):
    """Raise in the middle of a run."""

    def __init__(self, step, error):
        self.step = step
        self.error = error

    def on_pre_optimizer_step(self, args, state, control, **_):
        if state.global_step == self.step:
            raise self.error


class Fails(Objective):
    """An objective that fails after some calls, with hooks on and gradients in flight."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, student, target):
        self.calls += 1
        if self.calls > 4:
            raise FloatingPointError("broken")
        return (student - target).square().mean()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("broken")], ids=["interrupt", "error"])
@pytest.mark.parametrize("step", [0, 2], ids=["first stage", "second stage"])
def test_an_interrupted_run_leaves_no_trace(tmp_path, error, step):
    """In a notebook the next cell goes on with the same models: hooks and frozen parameters would spoil it."""
    student, teacher = resnet(4), resnet(6, seed=1)
    trainer = trainer_of(tmp_path, student, teacher, callbacks=[Break(step, error)], **LEAN)
    with pytest.raises(type(error)):
        trainer.train()
    assert trainer.state.global_step == step
    assert hooks(student, teacher) == []
    assert all(parameter.requires_grad and parameter.grad is None for parameter in student.parameters())
    assert trainer.model is student and trainer.model_wrapped is student and trainer.args.max_steps == 4
    trainer.evaluate(images(8))
    trainer.remove_callback(Break)
    trainer.train()
    assert trainer.state.global_step == 4


def test_an_objective_that_fails_leaves_no_trace(tmp_path):
    """The forward pass is where hooks are armed: an error there must take them off as well."""
    student, teacher = resnet(4), resnet(6, seed=1)
    name = "resnet.encoder.stages.0:output"
    same = Term(Fails(), student=name, teacher=name, connector=nn.Conv2d(8, 12, 1))
    trainer = trainer_of(tmp_path, student, teacher, [Stage([same])])
    with pytest.raises(FloatingPointError):
        trainer.train()
    assert 0 < trainer.state.global_step < 4 and hooks(student, teacher) == []


def test_a_second_call_of_train_starts_clean(tmp_path):
    """Steps, log, optimiser and views must not go on from the first call; only the weights do."""
    student, teacher = resnet(4), resnet(6, seed=1)
    seen = []

    def augmentation(pixels, draws):
        seen.append(draws.keys.tolist())
        return pixels + draws.uniform(1)[:, :, None, None].float()

    # One step: the counter of views of the first call ends where the second begins.
    settings = {"max_steps": 1, "evaluate_teacher": True}
    extra = {"augmentation": augmentation, "eval_dataset": images(8)}
    stages = knowledge_distillation()
    trainer = trainer_of(tmp_path / "a", student, teacher, stages, extra=extra, **settings)
    trainer.train()
    middle, first_seeds = {key: value.clone() for key, value in student.state_dict().items()}, list(seen)
    trainer.train()
    assert seen == first_seeds * 2
    assert [entry["step"] for entry in trainer.state.log_history] == [0, 1, 1]

    fresh = resnet(4)
    fresh.load_state_dict(middle)
    other = trainer_of(tmp_path / "b", fresh, teacher, knowledge_distillation(), extra=extra, **settings)
    other.train()
    assert losses(other) == losses(trainer)
    assert differing(tensors(fresh), tensors(student)) == []


def test_two_trainers_used_in_turn_train_as_alone(tmp_path):
    """Functions put on classes, shared connectors or shared states would make one run change the other."""
    stages, teacher = two_stages(), resnet(6, seed=1)

    def build(folder, seed):
        return trainer_of(folder, resnet(4, seed=seed), teacher, stages, seed=seed, extra={"eval_dataset": images(8)})

    alone = {}
    for seed in (1, 2):
        trainer = build(tmp_path / f"alone {seed}", seed)
        trainer.train()
        alone[seed] = trained_tensors(trainer), losses(trainer), trainer.evaluate()
    first, second = build(tmp_path / "1", 1), build(tmp_path / "2", 2)
    terms = [{id(term) for stage in trainer.stages for term in stage.terms} for trainer in (first, second)]
    assert terms[0] and terms[0].isdisjoint(terms[1])
    first.evaluate()
    second.train()
    first.train()
    second.evaluate()
    for seed, trainer in ((1, first), (2, second)):
        state, expected, metrics = alone[seed]
        assert differing(trained_tensors(trainer), state) == []
        assert losses(trainer) == expected and trainer.evaluate()["eval_loss"] == metrics["eval_loss"]
    assert all(term.connector == "auto" for stage in stages for term in stage.terms)


def test_a_run_inside_a_callback_of_another_does_not_change_it(tmp_path):
    """Measuring another model in between, in the same process, is what sweeps and notebooks do."""

    class Inner(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == 2:
                trainer_of(tmp_path / "inner", resnet(4, seed=3), stages=knowledge_distillation(), max_steps=2).train()

    def run(folder, callbacks):
        trainer = trainer_of(folder, callbacks=callbacks)
        trainer.train()
        return losses(trainer)

    outer = run(tmp_path / "a", [Inner()])
    assert outer[:2] == run(tmp_path / "b", [])[:2] and len(outer) == 4


def test_model_init_makes_a_new_student_for_every_run(tmp_path):
    """A search over settings compares runs: each has to start from the same weights and new connectors."""
    made = []

    def init():
        made.append(resnet(4))
        return made[-1]

    trainer = DistillationTrainer(
        args=arguments(tmp_path, logging_steps=1),
        teacher=resnet(6, seed=1),
        stages=two_stages(),
        train_dataset=images(32),
        model_init=init,
    )
    results = []
    for _ in range(2):
        trainer.train()
        assert trainer.model is made[-1]
        results.append((losses(trainer), trained_tensors(trainer)))
    assert len(made) == 3 and results[0][0] == results[1][0] and differing(results[0][1], results[1][1]) == []
