"""A run that was stopped and resumed is bit by bit the run that was never stopped."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import torch
from killed_runs import BOUNDARY, KILLS, SAVE, STEPS, augmented
from launched import forked
from tiny import CLASSES, RESNET_LAYERS, arguments, differing, images, resnet, vit
from tiny_runs import (
    Interrupt,
    SaveAt,
    assert_equal,
    left_at,
    outcome,
    pieces,
    published,
    stopped_and_resumed,
    two_stages,
)
from transformers import ResNetForImageClassification, TrainerCallback
from transformers.trainer_callback import ExportableState

from hf_abkd import (
    ActivationBoundary,
    CrossEntropy,
    DistillationTrainer,
    KnowledgeDistillation,
    Stage,
    Term,
)
from hf_abkd.models import saving
from hf_abkd.training.life import checkpoints
from hf_abkd.training.life.run_folder import checkpoint_of

# ---- Killed ----


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder with runs that were killed with SIGKILL, in processes of their own."""
    folder = tmp_path_factory.mktemp("killed")
    code, output = forked("killed_runs.py", folder)
    assert code == 0, output[-4000:]
    return folder


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The same runs, never stopped."""
    results = {}
    torch.set_num_threads(1)
    for kind in ("resnet", "vit"):
        trainer = augmented(tmp_path_factory.mktemp(f"straight {kind}"), *pieces(kind), save_strategy="no")
        trainer.train()
        results[kind] = outcome(trainer)
    return results


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_a_run_that_is_killed_three_times_goes_on_as_if_never_stopped(killed, straight, kind):
    """Anything lost (connectors, stage, optimiser, random states, data order, views) makes it another run."""
    left = json.loads((killed / "left.json").read_text())
    for name, step in KILLS.items():
        last = step if step == BOUNDARY else step - step % SAVE
        assert left[f"{kind} {name}"] == f"checkpoint-{last}"
    trainer = augmented(killed / kind, *pieces(kind))
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == STEPS
    assert_equal(outcome(trainer), straight[kind])


def test_runs_of_another_seed_differ(tmp_path, straight):
    """The comparisons above would be worthless if every run ended in the same weights."""
    trainer = augmented(tmp_path, *pieces("vit"), seed=43, save_strategy="no")
    trainer.train()
    other = outcome(trainer)
    assert len(differing(other["student"], straight["vit"]["student"])) > 10 and other["log"] != straight["vit"]["log"]


# ---- Stopped by a callback: more settings ----


class Noisy(ResNetForImageClassification):
    """A student that draws random numbers while it is made, as models with random features do."""

    def __init__(self, config):
        super().__init__(config)
        self.drawn = torch.rand(3, device="cpu").tolist()


def noisy(kind):
    torch.manual_seed(0)
    student = Noisy(resnet(4).config)
    return student, *pieces(kind)[1:]


def transfer(_kind):
    """A teacher with other classes, and an extra head on the student in both stages."""
    return resnet(4), resnet(6, seed=1, classes=6), published(RESNET_LAYERS, transfer_head="resnet.pooler")


def baseline(kind):
    return (vit(8) if kind == "vit" else resnet(4)), None, None


def shared_batchnorm(_kind):
    """One term object in two stages: its connector, statistics included, goes on from the first to the second."""
    student, teacher = RESNET_LAYERS[1]
    shared = Term(ActivationBoundary(), student=student, teacher=teacher)
    first, second = [shared], [shared, Term(KnowledgeDistillation())]
    return resnet(4), resnet(6, seed=1), [Stage(first, share=0.3), Stage(second)]


# The first stage takes 4 of 14 steps, and checkpoints are written at 3, 4, 6, 9, 12 and 14.
SHORT = {"max_steps": 14, "save_steps": 3, "term_gradient_steps": 0}
SHORT_BOUNDARY = 4
EVALUATED = {"eval_strategy": "steps", "eval_steps": 5, "eval_agreement": True, "evaluate_teacher": True}
EPOCHS = {"max_steps": -1, "num_train_epochs": 2, "per_device_train_batch_size": 8}
CASES = {
    "accumulated": ("vit", pieces, {"gradient_accumulation_steps": 2}, 9),
    "transfer head": ("resnet", transfer, {}, 3),
    "transfer head, between stages": ("resnet", transfer, {}, SHORT_BOUNDARY),
    "transfer head, second stage": ("resnet", transfer, {}, 7),
    "no teacher": ("vit", baseline, {}, 12),
    "evaluated vit": ("vit", pieces, EVALUATED, 9),
    "evaluated resnet, between stages": ("resnet", pieces, EVALUATED, SHORT_BOUNDARY),
    "shared connector": ("resnet", shared_batchnorm, {}, SHORT_BOUNDARY),
    "epochs": ("vit", pieces, EPOCHS, 5),
    "last step of an epoch": ("vit", pieces, {"save_steps": 14, "max_steps": 20}, 14),
    "draws while made": ("resnet", noisy, {}, 6),
    "milestones": ("resnet", pieces, {"lr_milestones": [0.3, 0.6], "optim": "sgd", "optim_args": "momentum=0.9"}, 9),
    "half precision": ("vit", pieces, {"bf16": True}, 6),
    "checkpointed": ("vit", pieces, {"activation_checkpointing": True}, 6),
    "workers": ("vit", pieces, {"dataloader_num_workers": 1, "max_steps": 8}, 6),
}


# These are stopped by a callback, at a step with a checkpoint or later, and compared with a run that saves nothing; the
# others go on from a checkpoint of the whole run, as if it had ended there.
STOPPED = ("transfer head", "transfer head, between stages", "transfer head, second stage", "no teacher")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Runs that are never stopped, each made once though it is stopped at several steps, and their folders."""
    done = {}

    def run(kind, parts, settings, saved=()):
        key = (kind, parts, str(settings), saved)
        if key not in done:
            folder = tmp_path_factory.mktemp("whole")
            settings = {**settings, "save_strategy": "no"}
            trainer = augmented(folder, *parts(kind), callbacks=[SaveAt(*saved)], **settings)
            trainer.train()
            done[key] = outcome(trainer), folder
        return done[key]

    return run


@pytest.mark.parametrize("case", CASES)
def test_a_stopped_run_goes_on_as_if_never_stopped(tmp_path, whole, case):
    """Settings that change how many batches, numbers or tensors a step takes each have a way of their own to fail."""
    kind, parts, settings, step = CASES[case]
    settings = {**SHORT, **settings}

    def make(callbacks, **more):
        return augmented(tmp_path, *parts(kind), callbacks=callbacks, **{**settings, **more})

    if case in STOPPED:
        expected, _ = whole(kind, parts, settings)
        resumed = stopped_and_resumed(make, step)
    else:
        expected, folder = whole(kind, parts, settings, (step,))
        left_at(step, folder, tmp_path)
        resumed = make([], save_strategy="no")
        resumed.train(resume_from_checkpoint=True)
    assert step < expected["step"]
    assert_equal(outcome(resumed), expected)


def test_a_stopped_run_on_a_stream_goes_on_as_if_never_stopped(tmp_path):
    """A stream has no length and no sampler: what was read has to be skipped."""
    rows = images(40)[:]
    rows = {"pixel_values": torch.stack(rows["pixel_values"]).tolist(), "labels": rows["labels"]}
    data = datasets.Dataset.from_dict(rows)

    def run(folder, step=None, resume=None):
        stream = data.to_iterable_dataset().with_format("torch")
        trainer = augmented(folder, callbacks=[Interrupt(step)], data=stream, **SHORT)
        trainer.train(resume_from_checkpoint=resume)
        return outcome(trainer)

    whole = run(tmp_path / "whole")
    assert run(tmp_path / "stopped", 10)["step"] == 10
    assert_equal(run(tmp_path / "stopped", resume=True), whole)


def test_a_run_resumed_from_a_path_object_is_resumed(tmp_path):
    """A pathlib path that is taken for "from the start" would throw the work of days away without a word."""
    augmented(tmp_path, callbacks=[Interrupt(7)], **SHORT).train()
    for path in (str(tmp_path / "checkpoint-6"), tmp_path / "checkpoint-6"):
        trainer = augmented(tmp_path, callbacks=[Interrupt(8)], **SHORT)
        steps = []
        trainer.add_callback(Steps(steps))
        trainer.train(resume_from_checkpoint=path)
        assert steps == [7, 8]


def test_a_longer_run_goes_on_from_a_shorter_one(tmp_path):
    """To train on for more steps is the usual reason to resume; only what is over already must stay as it was."""
    parts = [resnet(4), resnet(6, seed=1), None]

    def with_steps(second):
        built = two_stages()
        built[0].share, built[0].steps, built[1].steps = None, 4, second
        return [resnet(4), parts[1], built]

    augmented(tmp_path, *with_steps(4), max_steps=8, save_steps=8).train()
    longer = augmented(tmp_path, *with_steps(8), max_steps=12)
    longer.train(resume_from_checkpoint=True)
    assert longer.state.global_step == 12
    with pytest.raises(ValueError, match=r"checkpoint-12 is at step 12, and stage 2 of this run ends at step 8"):
        augmented(tmp_path, *with_steps(4), max_steps=8).train(resume_from_checkpoint=True)


class Steps(TrainerCallback):
    """Notes which steps were taken."""

    def __init__(self, taken):
        self.taken = taken

    def on_step_end(self, args, state, control, **_):
        self.taken.append(state.global_step)


class Counter(TrainerCallback, ExportableState):
    """Counts steps, and asks for its count to be kept in checkpoints."""

    def __init__(self):
        self.steps = 0

    def on_step_end(self, *_, **__):
        self.steps += 1

    def state(self):
        return {"args": {}, "attributes": {"steps": self.steps}}


@pytest.mark.parametrize("step", [3, SHORT_BOUNDARY, 6])
def test_counters_of_callbacks_are_restored(tmp_path, counted, step):
    """Early stopping that forgets what it counted, between the stages too, stops later than it would have."""
    resumed = counting(left_at(step, counted, tmp_path), save_strategy="no")
    resumed.train(resume_from_checkpoint=True)
    counts = [callback.steps for callback in resumed.callback_handler.callbacks if isinstance(callback, Counter)]
    assert counts == [SHORT["max_steps"]]


def counting(folder, **settings):
    trainer = augmented(folder, restore_callback_states_from_checkpoint=True, **{**SHORT, **settings})
    trainer.add_callback(Counter())
    return trainer


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """The folder of a run that counts, stopped at step 6."""
    folder = tmp_path_factory.mktemp("counted")
    trainer = counting(folder)
    trainer.add_callback(Interrupt(6))
    trainer.train()
    return folder


# ---- What is not a checkpoint of this run ----


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with checkpoints 4, 7 and 8."""
    folder = tmp_path_factory.mktemp("finished")
    torch.set_num_threads(1)
    augmented(folder, callbacks=[Interrupt(8)]).train()
    assert [path.name for path in checkpoints.checkpoints(folder)] == ["checkpoint-4", "checkpoint-7", "checkpoint-8"]
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy of that folder, to be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def cut(name, share=0.6):
    def damage(folder):
        path = folder / name
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return damage


def remove(name):
    return lambda folder: (folder / name).unlink()


DAMAGES = {
    "no trainer state": remove("trainer_state.json"),
    "no distillation state": remove("distillation_state.json"),
    "no connectors": remove("distillation_modules.safetensors"),
    "no weights": remove("model.safetensors"),
    "no optimiser": remove("optimizer.pt"),
    "no schedule": remove("scheduler.pt"),
    "no random state": remove("rng_state.pth"),
    "half a trainer state": cut("trainer_state.json"),
    "half a distillation state": cut("distillation_state.json"),
    "empty trainer state": cut("trainer_state.json", 0),
    "half the connectors": cut("distillation_modules.safetensors"),
    "half the weights": cut("model.safetensors"),
    "most of the weights": cut("model.safetensors", 0.99),
    "empty weights": cut("model.safetensors", 0),
    "half an optimiser": cut("optimizer.pt"),
    "half a random state": cut("rng_state.pth"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_half_a_checkpoint_is_passed_over_and_named(run, caplog, damage):
    """A machine that is switched off while it saves leaves such files; reading them would end or spoil the run."""
    DAMAGES[damage](run / "checkpoint-8")
    with caplog.at_level(logging.WARNING, logger="hf_abkd"):
        assert checkpoint_of(True, run).name == "checkpoint-7"
    assert "checkpoint-8 is not used to resume" in caplog.text
    with pytest.raises(ValueError, match="checkpoint-8 cannot be resumed from"):
        augmented(run).train(resume_from_checkpoint=str(run / "checkpoint-8"))


def test_a_run_with_half_a_checkpoint_goes_on_from_the_one_before(run, straight):
    """Passing over must also mean going on from the right place, and writing the damaged one again."""
    cut("trainer_state.json")(run / "checkpoint-8")
    trainer = augmented(run)
    trainer.train(resume_from_checkpoint=True)
    assert_equal(outcome(trainer), straight["resnet"])
    assert checkpoints.incomplete(run / "checkpoint-8") is None


def test_without_a_complete_checkpoint_resuming_is_refused(run, tmp_path):
    """Starting afresh instead would overwrite what could still be rescued."""
    for path in checkpoints.checkpoints(run):
        cut("optimizer.pt")(path)
    with pytest.raises(ValueError, match=r"no checkpoint to resume from .*checkpoint-7: optimizer.pt was cut off"):
        augmented(run).train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match='resume_from_checkpoint="auto" .* begins where there is none'):
        augmented(tmp_path / "nothing").train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="cannot be resumed from"):
        augmented(tmp_path / "nothing").train(resume_from_checkpoint=str(tmp_path / "none"))


def test_a_checkpoint_that_is_written_over_an_old_one_is_not_whole_before_it_is(run, monkeypatch):
    """Killed in the middle, the new weights would stand beside the old optimiser, and look like a checkpoint."""
    trainer = augmented(run)
    monkeypatch.setattr(torch, "save", _fail)
    with pytest.raises(OSError, match="disk full"):
        trainer.train(resume_from_checkpoint=str(run / "checkpoint-7"))
    assert checkpoints.incomplete(run / "checkpoint-8") == "it has no trainer_state.json"
    assert checkpoint_of(True, run).name == "checkpoint-7"


def _fail(*_, **__):
    raise OSError("disk full")


def other_teacher():
    return resnet(4), resnet(6, seed=9), two_stages()


def moved_statistics():
    student, teacher, built = pieces("resnet")
    teacher.resnet.encoder.stages[0].layers[0].layer[0].normalization.running_mean.add_(1e-3)
    return student, teacher, built


def no_teacher():
    return resnet(4), None, None


def other_margin():
    return resnet(4), resnet(6, seed=1), published(RESNET_LAYERS, margin=2.0)


def other_weight():
    first, second = two_stages()
    lighter = [replace(second.terms[0], weight=0.5), *second.terms[1:]]
    return resnet(4), resnet(6, seed=1), [first, replace(second, terms=lighter)]


def other_layers():
    return resnet(4), resnet(6, seed=1), two_stages(RESNET_LAYERS[1:])


def one_stage():
    return resnet(4), resnet(6, seed=1), two_stages()[1:]


def one_more_stage():
    built = two_stages()
    return resnet(4), resnet(6, seed=1), [*built, Stage([Term(CrossEntropy())], name="more", share=0.1)]


def other_length():
    built = two_stages()
    built[0].share = 0.2
    return resnet(4), resnet(6, seed=1), built


def other_rate():
    built = published(
        RESNET_LAYERS, classification=list(two_stages()[1].terms), initialization_arguments={"optim": "sgd"}
    )
    return resnet(4), resnet(6, seed=1), built


def frozen():
    built = two_stages()
    built[1].freeze = ["resnet.embedder"]
    return resnet(4), resnet(6, seed=1), built


def wider_student():
    return resnet(5), resnet(6, seed=1), two_stages()


def other_family():
    return vit(8), resnet(6, seed=1), [Stage([Term(KnowledgeDistillation())])]


OTHERS = {
    other_teacher: "another teacher",
    moved_statistics: "another teacher",
    no_teacher: "another teacher",
    other_margin: "must agree to resume",
    other_weight: "must agree to resume",
    other_layers: "must agree to resume",
    one_stage: "must agree to resume",
    one_more_stage: "must agree to resume",
    other_length: "must agree to resume",
    other_rate: "must agree to resume",
    frozen: "must agree to resume",
    wider_student: "do not fit this ResNetForImageClassification",
    other_family: "must agree to resume",
}


@pytest.mark.parametrize("change", OTHERS, ids=lambda change: change.__name__)
def test_a_checkpoint_of_another_run_is_refused(run, change):
    """Going on with another teacher or loss mixes two experiments, and no log would say so."""
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    trainer = augmented(run, *change())
    with pytest.raises(ValueError, match=OTHERS[change]):
        trainer.train(resume_from_checkpoint=True)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


# ---- The folder of a run ----


def test_a_folder_with_another_run_is_refused(run):
    """Two runs in one folder leave a mixture of checkpoints, from which the wrong one is resumed or published."""
    with pytest.raises(ValueError, match=r"holds another run: \['checkpoint-4', 'checkpoint-7', 'checkpoint-8'\]"):
        augmented(run).train()


def test_overwriting_deletes_checkpoints_and_nothing_else(run):
    """A user's notes, logs and exported models in the folder are not the trainer's to delete."""
    (run / "notes.txt").write_text("mine")
    (run / "checkpoint-best").mkdir()
    (run / "checkpoint-best" / "kept").write_text("mine")
    trainer = augmented(run, overwrite_output_dir=True, save_strategy="no", max_steps=2)
    trainer.train()
    assert sorted(path.name for path in run.iterdir()) == ["checkpoint-best", "notes.txt"]
    assert (run / "checkpoint-best" / "kept").read_text() == "mine"


def test_a_run_that_cannot_start_deletes_nothing(run):
    """The checkpoints of weeks must not be gone because the new run has a mistake in its data."""
    with pytest.raises(ValueError, match="Load the student with num_labels=5"):
        augmented(run, overwrite_output_dir=True, data=images(8, classes=CLASSES + 1)).train()
    assert len(checkpoints.checkpoints(run)) == 3


def test_resuming_with_the_overwrite_flag_keeps_the_checkpoints(run):
    """A script that always passes the flag must still be able to resume."""
    trainer = augmented(run, callbacks=[Interrupt(9)], overwrite_output_dir=True)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 9 and (run / "checkpoint-4").is_dir()


def test_a_checkpoint_is_a_plain_student_without_a_byte_of_the_teacher(finished):
    """A checkpoint that holds the teacher may not be published, and connectors in the model make it unloadable."""
    _, teacher, _ = pieces("resnet")
    files = {path: path.read_bytes() for path in (finished / "checkpoint-8").iterdir()}
    assert len(files) >= 8
    searched = 0
    for name, tensor in teacher.state_dict().items():
        if tensor.numel() >= 16 and len(tensor.unique()) > 8:
            piece = tensor.contiguous().numpy().tobytes()[:64]
            searched += 1
            assert not [path.name for path, content in files.items() if piece in content], name
    assert searched >= 8
    model, info = ResNetForImageClassification.from_pretrained(finished / "checkpoint-8", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert isinstance(model, ResNetForImageClassification)
    state = json.loads((finished / "checkpoint-8" / "distillation_state.json").read_text())
    assert state["stage"] == 1 and state["stages"][0]["stop"] == BOUNDARY


def test_the_search_for_teacher_bytes_finds_a_tensor_that_is_there(finished):
    """A search that finds nothing anywhere would prove nothing: the student's own tensors must be found."""
    content = (finished / "checkpoint-8" / "model.safetensors").read_bytes()
    model = ResNetForImageClassification.from_pretrained(finished / "checkpoint-8")
    assert model.classifier[1].weight.detach().numpy().tobytes()[:64] in content


def test_a_checkpoint_by_a_plain_trainer_is_refused(tmp_path):
    """It has no connectors, and its weights may lie under other names than those of the model in memory."""
    augmented(tmp_path, callbacks=[Interrupt(4)]).train()
    (tmp_path / "checkpoint-4" / "distillation_state.json").unlink()
    (tmp_path / "checkpoint-4" / "distillation_modules.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has no distillation_state.json"):
        augmented(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


def test_loading_does_not_ask_the_network(monkeypatch, finished):
    """A checkpoint folder whose name looks like a repository must not be looked up."""
    assert datasets.config.HF_HUB_OFFLINE
    student = resnet(4, seed=5)
    saving.restore_student(student, finished / "checkpoint-4")
    trainer = DistillationTrainer(student, arguments(finished / "x"), train_dataset=images(8))
    assert trainer.model is student


def test_layers_of_the_transformer_are_resumed_under_their_own_names(tmp_path):
    """ViT is saved under other names than in memory: a raw load leaves most of its tensors as they were."""
    parts = pieces("vit")
    trainer = augmented(tmp_path, *parts, callbacks=[Interrupt(4)])
    trainer.train()
    other = vit(8, seed=77)
    saving.restore_student(other, tmp_path / "checkpoint-4")
    assert differing(dict(other.state_dict()), dict(trainer.model.state_dict())) == []
