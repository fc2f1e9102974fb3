"""Folders of finished runs, as training leaves them."""

import json

import pytest

LAYERS = ["stages.0.act", "stages.1.act"]


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """Writes the folder of a run of two stages, and returns its log."""
    monkeypatch.chdir(tmp_path)

    def write(folder, model="AB, then KD", seed=0, accuracy=0.8, note=True, **others):
        log = [{"teacher_accuracy": 0.9, "step": 0}]
        for step in (10, 20, 30, 40):
            line = {"loss": 40.0 / step + seed, "knowledge_distillation": 1.0 / step, "stage": 1 if step < 25 else 2}
            if step < 25:
                line |= {f"activation_boundary/{layer}": 2.0 / step + seed for layer in LAYERS}
                line |= {f"boundary_agreement/{layer}": 0.5 + step / 100 for layer in LAYERS}
            log.append({**line, "grad_norm": 1.0, "learning_rate": 0.1, "epoch": step / 10, "step": step})
        if accuracy is not None:
            log += [{"eval_accuracy": accuracy - 0.1, "step": 20}, {"eval_accuracy": accuracy, "step": 40}]
        log.append({"train_runtime": 60.0, "train_loss": 1.0, "step": 40})
        content = {"model": model, "seed": seed, "parameters": 2_000_000, "log": log, "measured": {}, **others}
        place = tmp_path / folder
        place.mkdir(parents=True)
        (place / "outcome.json").write_text(json.dumps(content))
        if note:
            stages = [{"start": 0, "stop": 22, "name": "initialization"}, {"start": 22, "stop": 40, "name": "classes"}]
            (place / "finished_run.json").write_text(json.dumps(ended(stages)))
        return log

    return write


def ended(stages):
    """The note of how a run ended, with as much as is read of it."""
    whole = [{"terms": [], "freeze": [], "optimizer": None, "arguments": {}, **stage} for stage in stages]
    run = {
        "stage": 1,
        "stages": whole,
        "teacher": {"parameters": 9_000_000},
        "balance": {"factors": {}, "measuring": None},
    }
    state = {"global_step": 40, "max_steps": 40, "epoch": 4.0, "log_history": []}
    output = {"global_step": 40, "training_loss": 1.0, "metrics": {}}
    return {"checkpoint": "checkpoint-40", "state": state, "run": run, "output": output}
