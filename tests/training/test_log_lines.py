"""What a run prints while it trains."""

import pytest
import tiny
from transformers import PrinterCallback, ProgressCallback
from transformers.integrations import TensorBoardCallback

from hf_abkd import DistillationTrainer
from hf_abkd.training import stage_runner
from hf_abkd.training.log_lines import bar_numbers, log_line, short_names, stage_line

LAYERS = [f"resnet.encoder.stages.{stage}.layers.0.activation" for stage in range(3)]


def line(logs, step=50, steps=276, stage="", short=None):
    return log_line(logs, step=step, steps=steps, stage=stage, short=short)


def test_a_line_says_where_the_run_is_and_how_the_terms_are():
    """A dictionary of names of modules hides the three numbers that a user looks for."""
    logs = {"loss": 5.46187, "grad_norm": 1.9109, "learning_rate": 0.0047224, "cross_entropy": 1.97, "stage": 2}
    short = short_names(["cross_entropy"])
    assert line({**logs, "epoch": 2.1739}, stage="stage 2/2", short=short) == (
        "step  50/276  epoch 2.17  stage 2/2  loss 5.462  grad 1.911  lr 0.004722  ce 1.97"
    )


def test_numbers_of_layers_are_one_range_however_many_they_are():
    """Twelve pairs of layers have 24 numbers, each with a name of 60 characters."""
    terms = {f"activation_boundary/{layer}": 1.5 + index / 10 for index, layer in enumerate(LAYERS)}
    agreement = {f"boundary_agreement/{layer}": 0.5 + index / 100 for index, layer in enumerate(LAYERS)}
    short = short_names([*terms, "knowledge_distillation"])
    shown = line({"loss": 4.5, **terms, "weight/knowledge_distillation": 0.5, **agreement, "epoch": 0.6}, short=short)
    assert shown == ("step  50/276  epoch 0.60  loss 4.5  ab 1.5..1.7 (3)  weight/kd 0.5  agreement 0.5..0.52 (3)")
    ratios = {"gradient_ratio/knowledge_distillation": 2.055, f"gradient_ratio/activation_boundary/{LAYERS[0]}": 0.48}
    assert line(ratios, 2, 9, short=short) == "step 2/9  size of gradients  kd 2.055  ab 0.48"
    assert line({f"activation_boundary/{LAYERS[0]}": 1.5, "loss": 1.5}).endswith("activation_boundary 1.5  loss 1.5")


def test_names_are_short_only_where_they_stay_apart():
    """Two terms under one name, or one that is called as the learning rate is, would be read as each other."""
    assert short_names(["cross_entropy", "hint/a", "hint/b"]) == {"cross_entropy": "ce", "hint": "hint"}
    both = ["correlation_congruence", "class_correlation", "knowledge_distillation"]
    assert list(short_names(both).values()) == [*both[:2], "kd"]
    assert short_names(["linear_regression"]) == {"linear_regression": "linear_regression"}


def test_evaluations_are_named_once_and_without_their_speed():
    """Five words `eval_` and two speeds stand around the accuracy otherwise."""
    logs = {"eval_loss": 2.4222, "eval_accuracy": 0.1, "eval_runtime": 0.1541, "eval_samples_per_second": 2336.0}
    assert line({**logs, "epoch": 1.0}) == (
        "step  50/276  epoch 1.00  evaluation  loss 2.422  accuracy 0.1  took 0.1541 s"
    )
    assert line({"teacher_accuracy": 0.9778, "epoch": 0}, 0, 0) == "before training  teacher_accuracy 0.9778"
    assert line({"train_runtime": 34.71, "train_loss": 1.24}, 9, 9) == "step 9/9  took 34.71 s  mean loss 1.24"


def test_a_stage_is_marked_with_what_its_terms_are_called_below():
    """The short names of the lines below would be riddles."""
    terms = [*(f"activation_boundary/{layer}" for layer in LAYERS), "knowledge_distillation", "hint/layer"]
    assert stage_line("stage 1/2 initialization", steps=15, epochs=3.75, terms=terms, done=4) == (
        "-- stage 1/2 initialization: 15 steps, 3.75 epochs, 4 of them done; activation_boundary of 3 layers (ab), "
        "knowledge_distillation (kd), hint"
    )


@pytest.mark.parametrize("disable_tqdm", [True, False])
@pytest.mark.parametrize("seen", [True, False], ids=["terminal", "file"])
def test_both_ways_to_show_a_run_print_such_lines(tmp_path, capsys, monkeypatch, disable_tqdm, seen):
    """Logs of jobs have no bar: what is read there is read most, and a bar is a line of ten thousand characters."""
    monkeypatch.setattr(stage_runner, "bars_are_seen", lambda: seen)
    args = tiny.arguments(tmp_path, max_steps=1, logging_steps=1, disable_tqdm=disable_tqdm)
    trainer = DistillationTrainer(tiny.resnet(4), args, train_dataset=tiny.images(8))
    shown = [one for one in trainer.callback_handler.callbacks if isinstance(one, (PrinterCallback, ProgressCallback))]
    assert len(shown) == 1 and isinstance(shown[0], ProgressCallback) == (seen and not disable_tqdm)
    trainer.train()
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    [mark] = [number for number, text in enumerate(lines) if text.startswith("-- fine-tuning: 1 step, ")]
    assert lines[mark].endswith("; cross_entropy (ce)")
    assert any(text.startswith("step 1/1  epoch") and "  loss " in text for text in lines[mark:])
    assert "{" not in printed.out and "Writing model shards" not in printed.err
    assert ("it/s" in printed.err) == (seen and not disable_tqdm)
    assert ("loss " in printed.err and ", ce " in printed.err) == (seen and not disable_tqdm)


def test_the_bar_has_the_newest_loss_terms_and_agreement_alone():
    """What does not fit behind a bar pushes it off the screen, and an evaluation would wipe out what was there."""
    terms = {f"activation_boundary/{layer}": 1.5 + index / 10 for index, layer in enumerate(LAYERS)}
    logs = {"loss": 4.5, "grad_norm": 1.2, "learning_rate": 0.1, **terms, "weight/x": 2.0, "epoch": 0.6, "step": 9}
    agreement = {f"boundary_agreement/{layer}": 0.5 for layer in LAYERS[:1]}
    shown = bar_numbers({**logs, **agreement}, short_names(terms))
    assert shown == "loss 4.5, ab 1.5..1.7 (3), agreement 0.5" and bar_numbers({"eval_loss": 1.0}, {}) == ""


def test_tensorboard_lies_in_the_folder_of_the_run(tmp_path, monkeypatch):
    """What was measured before the first step went to `runs` in the current folder, and all runs mixed there."""
    made = []

    class Board(TensorBoardCallback):
        def __init__(self):
            self.tb_writer, self.logging_dir = None, None
            self._SummaryWriter = self

        def _init_summary_writer(self, args):
            made.append(self.logging_dir)

    monkeypatch.chdir(tmp_path)
    args = tiny.arguments(tmp_path / "out", max_steps=1)
    data = tiny.images(8)
    trainer = DistillationTrainer(tiny.resnet(4), args, train_dataset=data, eval_dataset=data, callbacks=[Board()])
    trainer.evaluate()
    assert made and all(folder.startswith(str(tmp_path / "out" / "runs")) for folder in made)
