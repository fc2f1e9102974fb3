"""The parts of a report for which students are asked about images."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset, Features, Image
from PIL import Image as PILImage

from hf_abkd.cli.answers import Answers
from hf_abkd.cli.asking import Asking
from hf_abkd.cli.comparison import Outcome
from hf_abkd.cli.run_report.asked import Asked, AskedRun
from hf_abkd.cli.run_report.class_part import ClassAccuracies, asked_classes, class_section, measured_classes
from hf_abkd.cli.run_report.disagreement_part import disagreement_section
from hf_abkd.cli.run_report.layers_part import layers_section
from hf_abkd.cli.run_report.run_log import RunLog
from hf_abkd.data.evaluated import EvaluatedImages
from hf_abkd.reports.evaluation import Evaluation, ModelEvaluation
from hf_abkd.reports.page.parts import Gallery

TRUTH = np.array([0, 0, 1, 1])


def run(model, seed=0, **others):
    return RunLog(Path(f"{model}-seed{seed}"), Outcome(model, seed, 1, []), **others)


def said(*classes):
    return Answers(np.eye(3, dtype=np.float32)[list(classes)] * 9, TRUTH)


@pytest.fixture
def asked():
    """Two models over two seeds and a teacher, asked about four images of two of three classes."""
    pictures = [PILImage.new("L", (300, 20), 50 * place) for place in range(4)]
    rows = Dataset.from_dict({"image": pictures}, features=Features({"image": Image()}))
    asking = Asking(EvaluatedImages(rows, ["cat", "<dog>"], "rows"))
    runs = [
        AskedRun(run("alone"), None, said(0, 1, 1, 0)),
        AskedRun(run("alone", 1), None, said(0, 0, 1, 0)),
        AskedRun(run("AB"), None, said(0, 0, 1, 2)),
        AskedRun(run("AB", 1), None, said(0, 1, 1, 1)),
    ]
    return Asked(asking, {0: "cat", 1: "<dog>", 2: "owl"}, runs, SimpleNamespace(), said(0, 0, 1, 1))


def words(section):
    return " ".join(part for part in section.parts if isinstance(part, str))


def widths(picture):
    return [bar.get_width() for bar in picture.figure.axes[0].patches]


def test_changes_of_classes_are_paired_by_seed(asked):
    """A mean over other seeds than those of the baseline compares seeds."""
    found = asked_classes(asked)
    assert found.students["AB"] == {0: [1.0, 0.5, None], 1: [0.5, 1.0, None]} and found.teacher == [1.0, 1.0, None]
    alone, ab = class_section(found, "alone").pictures
    # The classes with images, the largest loss first; against the teacher, then against the baseline.
    assert [label.get_text() for label in ab.figure.axes[0].get_yticklabels()] == ["cat", "<dog>"]
    assert widths(ab) == [-25.0, -25.0, 0.0, 25.0]
    assert widths(alone) == [-50.0, -25.0]
    assert "alone" in ab.figure.legends[0].get_texts()[1].get_text()


def test_only_the_classes_that_changed_most_are_shown():
    """A thousand bars are no picture."""
    names = [f"class {number}" for number in range(100)]
    found = ClassAccuracies(names, {"AB": {0: [number / 100 for number in range(100)]}}, [0.5] * 100)
    (picture,) = class_section(found, "AB").pictures
    shown = [label.get_text() for label in picture.figure.axes[0].get_yticklabels()]
    assert len(shown) == 20 and {"class 0", "class 99"} < set(shown) and "class 50" not in shown
    assert "the 20 classes that changed most are shown, of 100" in picture.caption


def test_classes_that_were_measured_before_serve_without_images():
    """Who has measured each student does not want to wait for it again."""
    shares = {"student": [1.0, 0.5], "teacher": [1.0, 1.0]}
    models = [ModelEvaluation(role, role, 1, class_accuracy=share) for role, share in shares.items()]

    def measured(*names):
        return Evaluation("rows", 4, [*names], [2, 2], models)

    runs = [run("AB", measured=measured("cat", "dog")), run("KD")]
    found = measured_classes(runs)
    assert found == ClassAccuracies(["cat", "dog"], {"AB": {0: [1.0, 0.5]}}, [1.0, 1.0])
    assert measured_classes([*runs, run("KD", 1, measured=measured("dog", "cat"))]) is None


def test_the_images_on_which_both_disagree_are_shown_with_their_answers(asked):
    """An image under the answers to another one is worse than none."""
    section = disagreement_section(asked)
    first, gallery, second, _ = section.parts
    assert first.startswith("alone, seed 0: of 4 images, 2 (50.0 %)") and "teacher is right about 2 of these" in first
    assert second.startswith("AB, seed 0: of 4 images, 1 (25.0 %)") and isinstance(gallery, Gallery)
    assert [dict(one.lines)["label"] for one in gallery.thumbnails] == ["cat", "<dog>"]
    assert dict(gallery.thumbnails[0].lines) == {
        "label": "cat",
        "student": "<dog>, 100\xa0%",
        "teacher": "cat, 100\xa0%",
    }
    (owl,) = section.parts[3].thumbnails
    assert dict(owl.lines)["student"] == "owl, 100\xa0%" and owl.png.startswith(b"\x89PNG") and len(owl.png) < 2000


def test_what_there_is_nothing_to_compare_with_is_told(asked):
    """A section that is empty looks like a mistake of the page."""
    alone = Asked(asked.asking, asked.class_names, asked.runs[:1])
    assert "--teacher names the teacher" in words(disagreement_section(alone))
    strange = Asked(asked.asking, asked.class_names, asked.runs[:1], SimpleNamespace(), None)
    assert "knows other classes" in words(disagreement_section(strange))
    assert "--teacher names one" in words(class_section(asked_classes(alone), "alone"))
    assert "No run pairs layers" in words(layers_section(alone))
