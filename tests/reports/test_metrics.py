import pickle
import threading

import evaluate
import numpy as np
import pytest
import torch
from launched import launch
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score, top_k_accuracy_score
from transformers import EvalPrediction, ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments

from hf_abkd.models.tasks.image_classification import IMAGE_CLASSIFICATION
from hf_abkd.models.tasks.task import Task
from hf_abkd.reports.in_memory_metric import to_arrow
from hf_abkd.reports.metrics import (
    METRICS,
    Accuracy,
    BoundaryAgreement,
    TeacherAgreement,
    TopKAccuracy,
    classification_metrics,
)

SAMPLES, CLASSES = 203, 11


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Where evaluate would put its files; every test also shows that nothing is put there."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", folder)
    monkeypatch.chdir(tmp_path)
    yield folder
    assert not folder.exists()
    assert not list(tmp_path.glob("*.arrow*"))


def random_state():
    return np.random.default_rng(0)


def class_inputs():
    state = random_state()
    return state.integers(0, 4, SAMPLES), state.integers(0, 4, SAMPLES)


def logit_inputs():
    state = random_state()
    return state.normal(size=(SAMPLES, CLASSES)).astype(np.float32), state.integers(0, CLASSES, SAMPLES)


def neuron_inputs():
    state = random_state()
    # Rounded, so that zeros occur on both sides.
    return [state.normal(size=(SAMPLES, 7)).round().astype(np.float32) for _ in range(2)]


# Metric, its inputs, its name, and what numpy or scikit-learn says.
CASES = {
    "accuracy": (Accuracy, class_inputs, lambda p, r: accuracy_score(r, p)),
    "teacher_agreement": (TeacherAgreement, class_inputs, lambda p, r: (p == r).sum() / len(p)),
    "top_5_accuracy": (
        TopKAccuracy,
        logit_inputs,
        lambda p, r: top_k_accuracy_score(r, p, k=5, labels=np.arange(CLASSES)),
    ),
    "boundary_agreement": (BoundaryAgreement, neuron_inputs, lambda p, r: 1 - np.logical_xor(p > 0, r > 0).mean()),
}


@pytest.fixture(params=sorted(CASES))
def case(request):
    metric, inputs, reference = CASES[request.param]
    predictions, references = inputs()
    expected = reference(predictions, references)
    assert 0.1 < expected < 0.9, "the inputs must tell right from wrong"
    return request.param, metric, predictions, references, expected


# What holds for every metric


def test_a_metric_equals_its_definition(case):
    """A wrong metric makes every table of results wrong."""
    name, metric, predictions, references, expected = case
    result = metric().compute(predictions=predictions, references=references)
    assert result == {name: pytest.approx(expected, rel=1e-12)}
    assert type(result[name]) is float, "Trainer writes results to JSON, which takes no numpy float"


@pytest.mark.parametrize("convert", [np.ndarray.tolist, torch.tensor, list, tuple], ids=lambda kind: kind.__name__)
def test_lists_arrays_and_tensors_are_all_taken(case, convert):
    """Users hand over whatever their loop produced."""
    name, metric, predictions, references, expected = case
    result = metric().compute(predictions=convert(predictions), references=convert(references))
    assert result[name] == pytest.approx(expected, rel=1e-12)


def test_batches_samples_and_one_call_give_the_same(case):
    """A mean of batch means would weigh the samples of a short last batch more."""
    name, metric, predictions, references, expected = case
    batched, single, mixed = metric(), metric(), metric()
    for start in range(0, SAMPLES, 50):
        batched.add_batch(predictions=predictions[start : start + 50], references=references[start : start + 50])
    assert len(batched) == SAMPLES
    for prediction, reference in zip(predictions, references, strict=True):
        single.add(prediction=prediction, reference=reference)
    mixed.add(prediction=predictions[0], reference=references[0])
    mixed.add_batch(predictions=predictions[1:100], references=references[1:100])
    for result in (
        batched.compute(),
        single.compute(),
        mixed.compute(predictions=predictions[100:], references=references[100:]),
    ):
        assert result[name] == pytest.approx(expected, rel=1e-12)


def test_a_metric_starts_afresh_after_each_result(case):
    """Samples of the last evaluation in the next one would smooth the learning curve."""
    name, metric, predictions, references, expected = case
    measured = metric()
    measured.compute(predictions=predictions[:10], references=references[:10])
    assert len(measured) == 0
    result = measured.compute(predictions=predictions, references=references)
    assert result[name] == pytest.approx(expected, rel=1e-12)


def test_two_of_a_kind_in_turn_do_not_mix(case):
    """evaluate names its cache file after the metric, so a second instance of one name could take the first's data."""
    name, metric, predictions, references, expected = case
    first, second = metric(), metric()
    first.add_batch(predictions=predictions[:100], references=references[:100])
    second.add_batch(predictions=predictions[:30], references=references[:30])
    first.add_batch(predictions=predictions[100:], references=references[100:])
    alone = metric().compute(predictions=predictions[:30], references=references[:30])
    assert second.compute() == alone
    assert first.compute()[name] == pytest.approx(expected, rel=1e-12)


def test_threads_may_measure_at_once(case):
    """Two trainers in one notebook must not take each other's samples."""
    name, metric, predictions, references, expected = case
    results = []

    def measure():
        measured = metric()
        for start in range(0, SAMPLES, 10):
            measured.add_batch(predictions=predictions[start : start + 10], references=references[start : start + 10])
        results.append(measured.compute()[name])

    threads = [threading.Thread(target=measure) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [pytest.approx(expected, rel=1e-12)] * 4


def test_numpy_random_state_is_left_alone(case):
    """An evaluation that moves the global state changes the training after it."""
    _, metric, predictions, references, _ = case
    before = np.random.get_state()[1].copy()
    metric().compute(predictions=predictions, references=references)
    assert np.array_equal(before, np.random.get_state()[1])


def test_nothing_to_measure_is_an_error(case):
    """An empty evaluation set would otherwise give NaN, or an error from deep inside evaluate."""
    _, metric, predictions, references, _ = case
    with pytest.raises(ValueError, match="no samples to measure"):
        metric().compute()
    with pytest.raises(ValueError, match="predictions is empty"):
        metric().compute(predictions=[], references=[])
    with pytest.raises(ValueError, match="predictions is empty"):
        metric().add_batch(predictions=predictions[:0], references=references[:0])


def test_a_missing_half_is_an_error(case):
    """Predictions without references cannot be measured; evaluate itself fails with a TypeError about None."""
    _, metric, predictions, references, _ = case
    with pytest.raises(ValueError, match="references is missing"):
        metric().compute(predictions=predictions)
    with pytest.raises(ValueError, match="predictions is missing"):
        metric().add(reference=references[0])


def test_one_reference_per_prediction_is_required(case):
    """Rows shifted by a lost sample would be compared with the wrong labels."""
    _, metric, predictions, references, _ = case
    with pytest.raises(ValueError, match=f"got {SAMPLES} predictions and {SAMPLES - 1} references"):
        metric().compute(predictions=predictions, references=references[1:])


def test_a_refused_batch_leaves_the_metric_as_it_was(case):
    """After a corrected mistake in a notebook the result must still be of the right samples."""
    name, metric, predictions, references, expected = case
    measured = metric()
    measured.add_batch(predictions=predictions[:5], references=references[:5])
    with pytest.raises(ValueError, match="one reference per prediction"):
        measured.add_batch(predictions=predictions[5:], references=references[6:])
    measured.add_batch(predictions=predictions[5:], references=references[5:])
    assert measured.compute()[name] == pytest.approx(expected, rel=1e-12)


def test_unknown_settings_are_refused(case):
    """A mistyped setting that is swallowed measures something else than asked."""
    _, metric, predictions, references, _ = case
    with pytest.raises(TypeError, match="topk"):
        metric().compute(predictions=predictions, references=references, topk=1)


@pytest.mark.slow
def test_processes_may_measure_at_once_and_leave_no_file(tmp_path):
    """Every rank of a distributed run measures at the same moment, in the same cache folder."""
    (tmp_path / "measure.py").write_text("""
import os, sys
from pathlib import Path
import evaluate
import numpy as np
from hf_abkd.reports.metrics import Accuracy, TopKAccuracy
# One home each: the libraries may make folders, which is not the question.
os.environ["HOME"] = str(Path(sys.argv[1], os.environ["RANK"]))
Path.home().mkdir()
evaluate.config.HF_METRICS_CACHE = Path(sys.argv[1], "shared")
share = (3 + 4 * int(os.environ["RANK"])) / 10
before = sorted(Path.home().rglob("*"))
for _ in range(20):
    metric, other = Accuracy(), TopKAccuracy()
    labels = np.arange(10)
    for row in range(10):
        prediction = row if row < share * 10 else row + 1
        metric.add(prediction=prediction, reference=row)
        other.add(prediction=np.eye(11)[prediction], reference=row)
    assert metric.compute() == {"accuracy": share}
    assert other.compute(k=1) == {"top_1_accuracy": share}
assert sorted(Path.home().rglob("*")) == before, set(Path.home().rglob("*")) - set(before)
""")
    codes, outputs = launch(tmp_path / "measure.py", tmp_path)
    assert codes == [0, 0], outputs
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["0", "1", "measure.py"], "nothing is shared"


# evaluate.combine


def test_metrics_of_the_same_inputs_can_be_combined():
    """evaluate.combine calls add with other names than a metric's own add."""
    predictions, references = class_inputs()
    for feed in ("compute", "add_batch", "add"):
        combined = evaluate.combine([Accuracy(), TeacherAgreement()])
        if feed == "compute":
            result = combined.compute(predictions=predictions, references=references)
        elif feed == "add_batch":
            combined.add_batch(predictions=predictions[:50], references=references[:50])
            combined.add_batch(predictions=predictions[50:], references=references[50:])
            result = combined.compute()
        else:
            for prediction, reference in zip(predictions, references, strict=True):
                combined.add(prediction, reference)
            result = combined.compute()
        share = accuracy_score(references, predictions)
        assert result == {"accuracy": pytest.approx(share), "teacher_agreement": pytest.approx(share)}


def test_vector_metrics_can_be_combined_under_prefixes():
    """Two layers measured side by side must both appear in the result."""
    student, teacher = neuron_inputs()
    combined = evaluate.combine({"layer1": BoundaryAgreement(), "layer2": BoundaryAgreement()}, force_prefix=True)
    combined.add_batch(predictions=student, references=teacher)
    expected = 1 - np.logical_xor(student > 0, teacher > 0).mean()
    assert combined.compute() == {
        "layer1_boundary_agreement": pytest.approx(expected),
        "layer2_boundary_agreement": pytest.approx(expected),
    }


# Classes


@pytest.mark.parametrize("metric", [Accuracy, TeacherAgreement])
def test_probabilities_are_not_taken_for_classes(metric):
    """evaluate turns 0.9 into class 0 without a word."""
    with pytest.raises(TypeError, match=r"predictions must be class indices .* got float64"):
        metric().compute(predictions=[0.1, 0.9], references=[0, 1])
    with pytest.raises(TypeError, match=r"references must be class indices .* got <U3"):
        metric().compute(predictions=[0, 1], references=["cat", "dog"])
    with pytest.raises(ValueError, match=r"predictions must have the shape \(N,\), got \(2, 2\)"):
        metric().compute(predictions=[[0, 1], [1, 0]], references=[0, 1])


# Top-k


@pytest.mark.parametrize("k", [1, 2, 5, CLASSES])
def test_top_k_equals_scikit_learn_for_every_k(k):
    """Off by one in the rank is the classic mistake here."""
    logits, labels = logit_inputs()
    expected = top_k_accuracy_score(labels, logits, k=k, labels=np.arange(CLASSES)) if k < CLASSES else 1.0
    assert TopKAccuracy().compute(predictions=logits, references=labels, k=k) == {
        f"top_{k}_accuracy": pytest.approx(expected, rel=1e-12)
    }


def test_the_lower_class_wins_among_equal_logits():
    """A student that gives the same logit to all classes must not score 100 %, nor differ between machines."""
    logits = np.zeros((6, 6), dtype=np.float32)
    labels = np.arange(6)
    for k in (1, 2, 5, 6):
        result = TopKAccuracy().compute(predictions=logits, references=labels, k=k)
        assert result == {f"top_{k}_accuracy": pytest.approx(k / 6)}
    partly = np.array([[1, 3, 3, 0], [1, 3, 3, 0], [1, 3, 3, 0]])
    assert TopKAccuracy().compute(predictions=partly, references=[1, 2, 0], k=1)["top_1_accuracy"] == pytest.approx(
        1 / 3
    )
    assert TopKAccuracy().compute(predictions=partly, references=[1, 2, 0], k=2)["top_2_accuracy"] == pytest.approx(
        2 / 3
    )


def test_top_1_is_the_accuracy_of_argmax_also_with_ties():
    """Two numbers for the same thing in one table must agree."""
    logits = random_state().integers(0, 3, size=(SAMPLES, CLASSES)).astype(np.float32)
    labels = random_state().integers(0, CLASSES, SAMPLES)
    top_1 = TopKAccuracy().compute(predictions=logits, references=labels, k=1)["top_1_accuracy"]
    assert top_1 == Accuracy().compute(predictions=logits.argmax(1), references=labels)["accuracy"]


@pytest.mark.parametrize(
    ("k", "error", "message"),
    [
        (0, ValueError, "k must be at least 1, got 0"),
        (-1, ValueError, "k must be at least 1, got -1"),
        (CLASSES + 1, ValueError, f"k={CLASSES + 1} is more than the {CLASSES} classes"),
        (2.0, TypeError, "k must be an int, got 2.0"),
        (True, TypeError, "k must be an int, got True"),
    ],
)
def test_a_k_without_a_meaning_is_refused(k, error, message):
    """k above the number of classes always gives 100 %."""
    logits, labels = logit_inputs()
    metric = TopKAccuracy()
    with pytest.raises(error, match=message):
        metric.compute(predictions=logits, references=labels, k=k)
    assert metric.compute(predictions=logits, references=labels, k=1)["top_1_accuracy"] < 0.9, "still usable"


@pytest.mark.parametrize("label", [-1, -100, CLASSES])
def test_labels_outside_the_logits_are_refused(label):
    """-1 would index the last class; a label above the logits counts as wrong, whatever the student learns."""
    logits, labels = logit_inputs()
    labels[3] = label
    message = rf"1 labels are outside \[0, {CLASSES}\), for example {label}"
    with pytest.raises(ValueError, match=message):
        TopKAccuracy().compute(predictions=logits, references=labels)
    with pytest.raises(ValueError, match=message):
        classification_metrics()(EvalPrediction(logits, labels))


def test_batches_of_another_number_of_classes_are_refused():
    """Logits of two models in one result."""
    metric = TopKAccuracy()
    metric.add_batch(predictions=np.zeros((2, 5)), references=[0, 1])
    with pytest.raises(ValueError, match=r"vectors of one length, got \{'predictions': 6\} after \{'predictions': 5\}"):
        metric.add_batch(predictions=np.zeros((2, 6)), references=[0, 1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_logits_of_any_precision_are_taken(dtype):
    """numpy has no bfloat16: an evaluation in half precision would end in a TypeError."""
    logits, labels = logit_inputs()
    given = torch.tensor(logits).to(dtype)
    expected = (given.topk(3).indices == torch.tensor(labels)[:, None]).any(1).float().mean().item()
    result = TopKAccuracy().compute(predictions=given, references=torch.tensor(labels), k=3)
    # bfloat16 makes ties, which topk breaks in its own way.
    assert result["top_3_accuracy"] == pytest.approx(expected, abs=0.02 if dtype == torch.bfloat16 else 1e-6)
    metric = TopKAccuracy()
    metric.add(prediction=given[0], reference=labels[0])
    assert len(metric) == 1


# Boundary agreement


def test_boundary_agreement_counts_zero_as_off_for_both():
    """A dead unit after a ReLU is exactly zero; counted as on, it would agree with active teacher units."""
    student = [[0.0, 0.0, 0.0, 1.0, -1.0, -0.0]]
    teacher = [[0.0, 1.0, -1.0, 0.0, -2.0, 3.0]]
    assert BoundaryAgreement().compute(predictions=student, references=teacher) == {
        "boundary_agreement": pytest.approx(3 / 6)
    }


def test_boundary_agreement_needs_the_same_neurons():
    """Values before the connector have another width; numpy broadcasting could compare them all the same."""
    with pytest.raises(ValueError, match="got 1 student and 3 teacher values per sample"):
        BoundaryAgreement().compute(predictions=np.zeros((2, 1)), references=np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"got \(2, 3, 4\)\. Reshape, e\.g\. with \.flatten\(1\)"):
        BoundaryAgreement().compute(predictions=np.zeros((2, 3, 4)), references=np.zeros((2, 3, 4)))


def test_a_batch_beyond_the_offsets_of_arrow_is_refused():
    """The 32-bit offsets would wrap around and the numbers of other samples would be measured."""
    values = np.broadcast_to(np.float32(1), (2**16, 2**15))
    with pytest.raises(ValueError, match="smaller batches"):
        to_arrow(values)


@pytest.mark.parametrize("metric", [BoundaryAgreement, TopKAccuracy])
def test_nan_is_refused(metric):
    """NaN compares as off and as smallest, so a diverged student would get a plausible score."""
    values = np.zeros((3, 2))
    values[1, 0] = np.nan
    references = np.zeros(3, dtype=int) if metric is TopKAccuracy else np.zeros((3, 2))
    with pytest.raises(ValueError, match="predictions holds NaN in 1 of 3 samples"):
        metric().compute(predictions=values, references=references)


# compute_metrics of Trainer


def test_classification_metrics_reports_accuracy_and_top_k():
    """metric_for_best_model names these keys."""
    logits, labels = logit_inputs()
    prediction = EvalPrediction(logits, labels)
    accuracy = pytest.approx(accuracy_score(labels, logits.argmax(1)))
    assert classification_metrics()(prediction) == {"accuracy": accuracy}
    top_3 = pytest.approx(top_k_accuracy_score(labels, logits, k=3, labels=np.arange(CLASSES)))
    assert classification_metrics(top_k=3)(prediction) == {"accuracy": accuracy, "top_3_accuracy": top_3}
    assert classification_metrics(3)(prediction) == {"accuracy": accuracy, "top_3_accuracy": top_3}


@pytest.mark.parametrize("top_k", [None, 2])
def test_classification_metrics_collects_batches_until_the_last(top_k):
    """batch_eval_metrics would otherwise report the last batch as if it were the whole evaluation set."""
    logits, labels = logit_inputs()
    whole = classification_metrics(top_k)(EvalPrediction(logits, labels))
    metrics = classification_metrics(top_k)
    for _ in range(2):
        for start in range(0, 200, 50):
            batch = EvalPrediction(torch.tensor(logits[start : start + 50]), torch.tensor(labels[start : start + 50]))
            assert metrics(batch, compute_result=False) == {}
        last = EvalPrediction(torch.tensor(logits[200:]), torch.tensor(labels[200:]))
        assert metrics(last, compute_result=True) == pytest.approx(whole), "the second round must not see the first"


def test_an_error_drops_the_batches_collected_so_far():
    """Half an evaluation that failed must not be part of the next one."""
    logits, labels = logit_inputs()
    metrics = classification_metrics(top_k=2)
    metrics(EvalPrediction(logits[:100], labels[:100]), compute_result=False)
    with pytest.raises(ValueError, match="NaN"):
        metrics(EvalPrediction(np.full((5, CLASSES), np.nan), labels[:5]), compute_result=False)
    fresh = classification_metrics(top_k=2)(EvalPrediction(logits[100:], labels[100:]))
    assert metrics(EvalPrediction(logits[100:], labels[100:])) == fresh


def test_classification_metrics_can_be_pickled():
    """A launcher that spawns processes, or a hyperparameter search, pickles the trainer's arguments."""
    logits, labels = logit_inputs()
    prediction = EvalPrediction(logits, labels)
    metrics = classification_metrics(top_k=4)
    copy = pickle.loads(pickle.dumps(metrics))
    assert copy(prediction) == metrics(prediction)
    metrics(prediction, compute_result=False)
    assert pickle.loads(pickle.dumps(metrics))(prediction) == copy(prediction), "waiting batches stay behind"
    assert repr(copy) == "classification_metrics(top_k=4)"


def test_classification_metrics_refuses_what_is_not_one_array_of_logits():
    """A model that also returns hidden states hands over a tuple; its first part need not be the logits."""
    logits, labels = logit_inputs()
    metrics = classification_metrics()
    with pytest.raises(ValueError, match=r"predictions must be one array, got a tuple of 2 parts.*preprocess_logits"):
        metrics(EvalPrediction((logits, logits), labels))
    with pytest.raises(ValueError, match=r"predictions must be one array, got a tuple of 1 parts"):
        metrics(EvalPrediction((logits,), labels))
    with pytest.raises(ValueError, match=r"label_ids must be one array, got a tuple of 2 parts"):
        metrics(EvalPrediction(logits, (labels, labels)))
    with pytest.raises(ValueError, match=r"label_ids must be one array, got None"):
        metrics(EvalPrediction(logits, None))
    with pytest.raises(ValueError, match=r"predictions must have the shape \(N, D\)"):
        metrics(EvalPrediction(logits[:, :, None], labels))
    with pytest.raises(ValueError, match="one reference per prediction"):
        metrics(EvalPrediction(logits, labels[1:]))
    with pytest.raises(TypeError, match="label_ids must be class indices"):
        metrics(EvalPrediction(logits, labels.astype(np.float32)))
    with pytest.raises(ValueError, match="predictions is empty"):
        metrics(EvalPrediction(logits[:0], labels[:0]))


def test_classification_metrics_refuses_a_top_k_as_early_as_it_can():
    """After an hour of training is too late to learn of a wrong setting."""
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        classification_metrics(top_k=0)
    with pytest.raises(TypeError, match="top_k must be an int, got '5'"):
        classification_metrics(top_k="5")
    logits, labels = logit_inputs()
    with pytest.raises(ValueError, match=f"top_k=12 is more than the {CLASSES} classes"):
        classification_metrics(top_k=12)(EvalPrediction(logits, labels), compute_result=False)


@pytest.mark.parametrize("batch_eval_metrics", [False, True])
def test_trainer_evaluates_with_classification_metrics(batch_eval_metrics, tmp_path):
    """The protocol is Trainer's: only Trainer can show that both of its ways give the same, right number."""
    digits = load_digits()
    pixels = torch.tensor(digits.images[:70], dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target[:70])
    torch.manual_seed(0)
    config = ResNetConfig(num_channels=1, embedding_size=4, hidden_sizes=[4], depths=[1], num_labels=10)
    model = ResNetForImageClassification(config).eval()
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=tmp_path / "run",
            per_device_eval_batch_size=16,
            batch_eval_metrics=batch_eval_metrics,
            use_cpu=True,
            dataloader_pin_memory=False,
            disable_tqdm=True,
        ),
        eval_dataset=[{"pixel_values": image, "labels": label} for image, label in zip(pixels, labels, strict=True)],
        compute_metrics=classification_metrics(top_k=5),
    )
    with torch.no_grad():
        logits = model(pixels).logits.numpy()
    top_5 = top_k_accuracy_score(labels, logits, k=5, labels=np.arange(10))
    assert 0.2 < top_5 < 1
    for _ in range(2):
        results = trainer.evaluate()
        assert results["eval_accuracy"] == pytest.approx(accuracy_score(labels, logits.argmax(1)))
        assert results["eval_top_5_accuracy"] == pytest.approx(top_5)


def test_every_task_has_its_score_measured():
    """A task whose score nothing computes has no best model and no leaderboard."""
    measured = METRICS[IMAGE_CLASSIFICATION.name]()(EvalPrediction(np.eye(3), np.arange(3)))
    assert measured[IMAGE_CLASSIFICATION.score] == 1
    assert set(METRICS) == {task.name for task in Task.__subclasses__()}
