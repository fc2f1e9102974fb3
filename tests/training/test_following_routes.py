"""A teacher that takes on other weights while stages run: the right ones at every step, resumed, and given back."""

import json
import logging
import shutil
import signal
from pathlib import Path

import pytest
import torch
from followed_routes import EVALUATED, STEPS, following, greedy, routes, saved, teachers
from launched import forked
from tiny import CLASSES, RESNET_LAYERS, arguments, differing, images, resnet, tensors, vit
from tiny_runs import (
    AS_IT_IS,
    AtStart,
    Interrupt,
    SaveAt,
    assert_equal,
    left_at,
    outcome,
    published,
    stopped_and_resumed,
)
from torch import nn

from hf_abkd import (
    ActivationBoundary,
    CrossEntropy,
    DistillationTrainer,
    KnowledgeDistillation,
    Stage,
    TeacherCache,
    Term,
    knowledge_distillation,
    route_constrained,
)
from hf_abkd.layers.capture import CapturePoint
from hf_abkd.methods import GreedyRoute
from hf_abkd.stages.term import PairedTerms
from hf_abkd.teachers.identity import fingerprint
from hf_abkd.teachers.live import LiveTeacher
from hf_abkd.teachers.route.route import TeacherRoute
from hf_abkd.training.life import checkpoints


@pytest.fixture(scope="module")
def anchors(tmp_path_factory):
    """Folders of three teachers of each kind; the third is what `teachers(kind)[2]` is."""
    return {kind: saved(tmp_path_factory.mktemp(kind), teachers(kind)) for kind in ("resnet", "vit")}


def without_anchors(log):
    return [entry for entry in log if "anchor" not in entry]


# ---- What is learnt from at every step ----


ACCUMULATED, ONE_EPOCH = {"gradient_accumulation_steps": 2}, {"max_steps": -1, "num_train_epochs": 1}


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("resnet", {"fast": True}),
        ("resnet", {**ACCUMULATED, **ONE_EPOCH}),
        ("vit", ACCUMULATED),
        ("vit", ONE_EPOCH),
    ],
)
def test_a_route_of_equal_anchors_is_distillation_bit_by_bit(tmp_path, kind, settings):
    """Anything else that changes from anchor to anchor (optimiser, schedule, data order, dropout) would be compared
    with KD in the place of the route."""
    same = saved(tmp_path, [teachers(kind)[2]] * 3)
    settings = {"evaluate_teacher": True, "eval_strategy": "steps", "eval_steps": 5, "eval_agreement": True, **settings}
    plain = following(tmp_path / "plain", knowledge_distillation(), kind=kind, **settings)
    routed = following(tmp_path / "routed", route_constrained(same), kind=kind, **settings)
    plain.train()
    routed.train()
    one, other = outcome(plain), outcome(routed)
    assert differing(one["student"], other["student"]) == []
    assert one["log"] == without_anchors(other["log"])
    assert [entry["anchor"] for entry in other["log"] if "anchor" in entry] == [1, 2, 3]


@pytest.fixture
def asked(monkeypatch):
    """What the teacher was given and said in each training batch."""
    calls = []
    original = LiveTeacher.__call__

    def spy(self, inputs):
        targets = original(self, inputs)
        calls.append((inputs, targets))
        return targets

    monkeypatch.setattr(LiveTeacher, "__call__", spy)
    return calls


UNEQUAL = [0.25, 0.25, 0.5]


@pytest.mark.parametrize(
    ("shares", "accumulation", "restart"),
    [(None, 1, False), (None, 2, True), (UNEQUAL, 1, True), (UNEQUAL, 2, False)],
)
def test_every_batch_is_taught_by_its_anchor(tmp_path, anchors, asked, shares, accumulation, restart):
    """The fast copy of the teacher has BatchNorm folded into other tensors: it would go on with the old weights."""
    stages = route_constrained(anchors["resnet"], shares=shares, restart=restart)
    settings = {"gradient_accumulation_steps": accumulation, "term_gradient_steps": 0}
    trainer = following(tmp_path, stages, fast=True, **settings)
    trainer.train()
    # Before a stage the teacher is asked once, to see what the terms reach; it has its own weights then.
    calls = [call for call in asked if len(call[0]["pixel_values"]) == 4]
    assert len(calls) == STEPS * accumulation
    ends = [4, 8, 12] if shares is None else [3, 6, 12]
    models = [model.eval() for model in teachers()]
    seen = []
    for number, (inputs, targets) in enumerate(calls):
        anchor = next(part for part, end in enumerate(ends) if number // accumulation < end)
        with torch.no_grad():
            said = [model(inputs["pixel_values"]).logits for model in models]
        apart = [(logits - targets["logits"]).abs().max().item() for logits in said]
        seen.append(apart.index(min(apart)))
        assert apart[anchor] < 1e-5 < 1e-2 < min(apart[:anchor] + apart[anchor + 1 :])
    assert sorted(set(seen)) == [0, 1, 2]


def test_one_schedule_or_one_for_each_anchor(straight):
    """Which of the two was trained decides a comparison, so it has to be what was asked for."""

    def rates(name):
        run = straight("resnet", name)[0]
        assert run["step"] == run["max_steps"] == STEPS
        return [entry["learning_rate"] for entry in run["log"] if "learning_rate" in entry]

    assert rates("one schedule") == pytest.approx([1e-2 * (1 - step / STEPS) for step in range(STEPS)])
    assert rates("restarted") == pytest.approx([1e-2 * (1 - step % 4 / 4) for step in range(STEPS)])


def test_boundaries_of_anchors_are_learnt_through_one_connector(tmp_path, anchors, asked):
    """Of an anchor the signs change; a connector made anew would throw away what it has learnt."""
    terms = [PairedTerms(ActivationBoundary()), Term(KnowledgeDistillation())]
    stages = route_constrained(anchors["resnet"], stages=[Stage(terms, name="hints")], restart=True)
    trainer = following(tmp_path, stages, fast=True, term_gradient_steps=0)

    def connectors():
        return {id(module) for stage in trainer.stages for term in stage.terms for module in term.modules()}

    before = set()
    trainer.add_callback(AtStart(lambda: before.update(connectors())))
    assert len({tuple(map(id, stage.terms)) for stage in trainer.stages}) == 1
    trainer.train()
    assert before and connectors() >= before
    names = [name for name in asked[-1][1] if name != "logits"]
    assert len(names) >= 2
    calls = [call for call in asked if len(call[0]["pixel_values"]) == 4]
    plan = trainer.plan
    for number, (inputs, targets) in enumerate(calls):
        model = teachers()[number // 4].eval()
        live = LiveTeacher(model)
        points = {name: CapturePoint(name, "input") for name in names}
        live.select(points, boundaries=points)
        signs = live.probe(inputs)
        for name in names:
            assert ((signs[name] > 0) != targets[name]).float().mean() < 1e-3
    assert plan is not None and not torch.equal(calls[0][1][names[0]], calls[-1][1][names[0]])


def test_two_phases_go_the_route_each(tmp_path, anchors):
    """AB and then KD: both from the easy anchor to the converged teacher."""
    stages = route_constrained(anchors["resnet"][1:], stages=published(RESNET_LAYERS))
    trainer = following(tmp_path, stages, evaluate_teacher=True)
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "anchor" in entry]
    assert [(entry["stage"], entry["anchor"], entry["step"]) for entry in log] == [
        *((1, 1, 0), (1, 2, 2)),
        *((2, 1, 4), (2, 2, 8)),
    ]


# ---- What is measured ----


def test_accuracies_and_agreements_are_of_the_weights_in_use(tmp_path, anchors):
    """An agreement with an unknown mixture of anchors would mean nothing."""
    settings = {"evaluate_teacher": True, "eval_strategy": "steps", "eval_steps": 4, "eval_agreement": True}
    trainer = following(tmp_path, route_constrained(anchors["resnet"]), learning_rate=0.0, **settings)
    trainer.train()
    pixels = torch.stack(images(16, seed=2)[:]["pixel_values"])
    labels = torch.tensor(images(16, seed=2)[:]["labels"])
    with torch.no_grad():
        right = [(m.eval()(pixels).logits.argmax(1) == labels).float().mean().item() for m in teachers()]
    log = trainer.state.log_history
    assert len(set(right)) > 1
    assert [e["anchor_accuracy"] for e in log if "anchor_accuracy" in e] == pytest.approx(right)
    assert [e["teacher_accuracy"] for e in log if "teacher_accuracy" in e] == pytest.approx(right[2:])
    agreements = [e["eval_teacher_agreement"] for e in log if "eval_teacher_agreement" in e]
    # The learning rate is 0, but statistics of BatchNorm move: the agreements are those of the student at the end.
    with torch.no_grad():
        own = trainer.model.eval()(pixels).logits.argmax(1)
        shares = [(m.eval()(pixels).logits.argmax(1) == own).float().mean().item() for m in teachers()]
    assert len(agreements) == 3 and agreements[2] == pytest.approx(shares[2])
    # After the run it is the teacher that was given.
    assert trainer.evaluate()["eval_teacher_agreement"] == pytest.approx(shares[2])


def test_the_card_says_that_there_was_a_route(tmp_path, anchors):
    """Who reads the card should be able to repeat the run, and finds no folder of the author's machine in it."""
    trainer = following(tmp_path, route_constrained(anchors["resnet"]), max_steps=3)
    trainer.train()
    trainer.create_model_card()
    card = (tmp_path / "README.md").read_text()
    assert "| `teacher` | 3 anchors over 0.3333, 0.3333, 0.3333 |" in card and str(anchors["resnet"][0]) not in card


def test_a_route_that_ends_elsewhere_is_told(tmp_path, anchors, caplog):
    """Accuracies of the teacher are then of weights that nobody learns from."""
    with caplog.at_level(logging.WARNING, logger="hf_abkd"):
        following(tmp_path / "same", route_constrained(anchors["resnet"]), max_steps=3).train()
        assert "the run ends with the weights in" not in caplog.text
        following(tmp_path / "other", route_constrained(anchors["resnet"][:2]), max_steps=3).train()
    assert f"the run ends with the weights in {anchors['resnet'][1]}" in caplog.text


# ---- The teacher is given back ----


class Broken(CrossEntropy):
    """Fails in the middle of the second anchor."""

    def forward(self, student, target):
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls > 9:
            raise self.error
        return super().forward(student, target)


@pytest.mark.parametrize("error", [None, RuntimeError("out of memory"), KeyboardInterrupt()])
@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_the_teacher_has_its_own_weights_afterwards(tmp_path, anchors, kind, error):
    """Who goes on with the model that was passed in would otherwise use one from the middle of its training."""
    teacher = teachers(kind)[0]
    before, pointers = tensors(teacher), [tensor.data_ptr() for tensor in teacher.state_dict().values()]
    objective = CrossEntropy() if error is None else Broken()
    objective.error = error
    stages = route_constrained(
        anchors[kind][1:], stages=[Stage([Term(KnowledgeDistillation()), Term(objective)], name="route")]
    )
    trainer = following(tmp_path, stages, kind=kind, teacher=teacher, fast=True, term_gradient_steps=0)
    moved = []
    original = LiveTeacher.load
    trainer.teacher.load = lambda state: (moved.append(fingerprint(state)), original(trainer.teacher, state))
    if error is None:
        trainer.train()
    else:
        with pytest.raises(type(error)):
            trainer.train()
    assert len(set(moved)) == 3 and moved[-1] == fingerprint(before_named(teacher, before))
    assert differing(tensors(teacher), before) == []
    assert [tensor.data_ptr() for tensor in teacher.state_dict().values()] == pointers
    # The fast copy too.
    batch = {"pixel_values": torch.stack(images(4)[:]["pixel_values"])}
    trainer.teacher.select({})
    torch.testing.assert_close(trainer.teacher(batch)["logits"], teacher(**batch).logits, rtol=1e-4, atol=1e-5)


def before_named(teacher, before):
    return {name.partition(".")[2]: tensor for name, tensor in before.items()}


def test_a_stage_without_a_route_has_the_teacher_itself(tmp_path, anchors, asked):
    """An anchor that stays in the teacher would teach the next stage."""
    taught = [Term(KnowledgeDistillation())]
    stages = [Stage(taught, teacher=anchors["resnet"][0], name="early"), Stage(taught, name="own")]
    following(tmp_path, stages, fast=True, term_gradient_steps=0, max_steps=4).train()
    calls = [call for call in asked if len(call[0]["pixel_values"]) == 4]
    for number, (inputs, targets) in enumerate(calls):
        with torch.no_grad():
            said = teachers()[0 if number < 2 else 2].eval()(inputs["pixel_values"]).logits
        torch.testing.assert_close(targets["logits"], said, rtol=1e-4, atol=1e-5)


def test_a_second_training_goes_the_route_again(tmp_path, anchors):
    """A trainer that remembers where it was would begin the next run with the last anchor."""
    trainer = following(tmp_path, route_constrained(anchors["resnet"]), max_steps=6)
    for _ in range(2):
        trainer.train()
        log = [entry["anchor"] for entry in trainer.state.log_history if "anchor" in entry]
        assert log == [1, 2, 3]


# ---- Greedy ----


def slow_divergence(student, teacher, pixels):
    """The mean of sum p_T log(p_T / p_S), written out in float64."""
    total = 0.0
    with torch.no_grad():
        ours, theirs = (model.eval()(pixels).logits.double().tolist() for model in (student, teacher))
    for s, t in zip(ours, theirs, strict=True):
        exp_s, exp_t = ([torch.tensor(v, dtype=torch.float64).exp().item() for v in row] for row in (s, t))
        for one, other in zip(exp_s, exp_t, strict=True):
            p, q = other / sum(exp_t), one / sum(exp_s)
            total += p * torch.tensor(p / q, dtype=torch.float64).log().item()
    return total / len(pixels)


def test_hardness_is_the_divergence_of_the_student_as_it_is(tmp_path, anchors):
    """Measured in the wrong direction, on the first student or on the fast copy of another anchor it chooses others."""
    kept = {}

    class Spy(GreedyRoute):
        def choose(self, part, before, hardness):
            if part == 1:
                kept["student"] = {n: t.clone() for n, t in trainer.model.state_dict().items()}
                kept["modes"] = [module.training for module in trainer.model.modules()]
                kept["measured"] = [hardness(anchor) for anchor in range(3)]
                kept["again"] = [module.training for module in trainer.model.modules()]
            return super().choose(part, before, hardness)

    route = Spy(anchors["resnet"], images(10, seed=9, labels=False), parts=3, delta=1.5)
    trainer = following(tmp_path, route_constrained(route), fast=True, learning_rate=0.05)
    trainer.train()
    student = resnet(4)
    student.load_state_dict(kept["student"])
    pixels = torch.stack(images(10, seed=9)[:]["pixel_values"])
    expected = [slow_divergence(student, model, pixels) for model in teachers()]
    assert kept["measured"] == pytest.approx(expected, rel=1e-4) and min(expected) > 1e-3
    assert len({round(value, 4) for value in expected}) == 3 and kept["modes"] == kept["again"]
    backwards = [slow_divergence(model, student, pixels) for model in teachers()]
    assert kept["measured"] != pytest.approx(backwards, rel=1e-2)
    log = [entry for entry in trainer.state.log_history if "anchor" in entry]
    assert log[1]["anchor_divergence"] == pytest.approx(expected[log[1]["anchor"] - 1], rel=1e-4)


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_measuring_changes_nothing_but_the_choice(tmp_path, anchors, kind):
    """A measurement that draws random numbers or moves statistics would be a part of the method."""
    chosen = following(tmp_path / "greedy", route_constrained(greedy(anchors[kind], parts=4, delta=1.0)), kind=kind)
    chosen.train()
    order = [entry["anchor"] - 1 for entry in chosen.state.log_history if "anchor" in entry]
    # Of four parts over three anchors the last two have the converged teacher.
    assert order == [0, 1, 2, 2]
    parts = {anchor: order.count(anchor) / 4 for anchor in order}
    fixed = TeacherRoute([anchors[kind][anchor] for anchor in parts], shares=list(parts.values()))
    again = following(tmp_path / "fixed", route_constrained(fixed), kind=kind)
    again.train()
    one, other = outcome(chosen), outcome(again)
    assert differing(one["student"], other["student"]) == []
    assert without_anchors(one["log"]) == without_anchors(other["log"])


def test_hardness_needs_common_classes(tmp_path):
    """Divergence over classes that are not the same ones is a number without a meaning."""
    names = {"id2label": dict(enumerate("abcd")), "label2id": {name: i for i, name in enumerate("abcd")}}
    others = {"id2label": dict(enumerate("wxyz")), "label2id": {name: i for i, name in enumerate("wxyz")}}
    models = [resnet(6, seed=seed, **others) for seed in (1, 2, 3)]
    folders = saved(tmp_path, models)
    hints = [Stage([Term(ActivationBoundary(), student=a, teacher=b) for a, b in RESNET_LAYERS])]
    for route, refused in ((greedy(folders), True), (folders, False)):
        trainer = DistillationTrainer(
            resnet(4, **names),
            arguments(tmp_path / "out", max_steps=3, **AS_IT_IS),
            teacher=models[2],
            stages=route_constrained(route, stages=hints),
            train_dataset=images(16),
        )
        if refused:
            with pytest.raises(ValueError, match="none of the student's 4 classes is among the teacher's"):
                trainer.train()
        else:
            trainer.train()


def test_a_teacher_with_its_classes_in_another_order_teaches_along_its_route(tmp_path, anchors):
    """Classes are matched by name for the anchors as for the teacher: hardness too."""
    order = [2, 0, 3, 1]
    names = {"id2label": dict(enumerate("abcd")), "label2id": {name: i for i, name in enumerate("abcd")}}
    mixed = [names["id2label"][index] for index in order]
    moved = {"id2label": dict(enumerate(mixed)), "label2id": {name: i for i, name in enumerate(mixed)}}

    def permuted(seed):
        model, plain = resnet(6, seed=seed, **moved), resnet(6, seed=seed, **names)
        model.load_state_dict(plain.state_dict())
        for tensor in model.classifier[1].parameters():
            tensor.data.copy_(tensor.data[order].clone())
        return model, plain

    results = []
    for which in (0, 1):
        models = [permuted(seed)[which] for seed in (1, 2, 3)]
        folders = saved(tmp_path / str(which), models)
        trainer = DistillationTrainer(
            resnet(4, **names),
            arguments(tmp_path / f"out{which}", max_steps=6, logging_steps=1, **AS_IT_IS),
            teacher=models[2],
            stages=route_constrained(greedy(folders)),
            train_dataset=images(16),
        )
        trainer.train()
        results.append(trainer)
    logs = [[e for e in trainer.state.log_history if "anchor" in e] for trainer in results]
    assert [e["anchor"] for e in logs[0]] == [e["anchor"] for e in logs[1]]
    measured = [[e["anchor_divergence"] for e in log if "anchor_divergence" in e] for log in logs]
    assert measured[0] == pytest.approx(measured[1], rel=1e-4) and measured[0]
    torch.testing.assert_close(tensors(results[0].model), tensors(results[1].model), rtol=1e-3, atol=1e-4)


# ---- Resuming ----


NAMES = list(routes("resnet", {"resnet": ["a", "b"]}))
# These two are trained with fast copies of the teacher.
FAST = ("one schedule", "greedy")


def whole_route(folder, anchors, kind, name, **settings):
    """A trainer of a run along the route of a name, that measures on the way."""
    return following(folder, routes(kind, anchors)[name](), kind=kind, fast=name in FAST, **EVALUATED, **settings)


@pytest.mark.parametrize("name", ["greedy", "two phases"])
def test_a_stopped_run_goes_on_as_if_never_stopped(tmp_path, anchors, straight, name):
    """A resumed run that begins the route again, or chooses otherwise, is another run."""

    def run(callbacks):
        return whole_route(tmp_path, anchors, "resnet", name, callbacks=callbacks, save_strategy="steps")

    resumed = outcome(stopped_and_resumed(run, 6))
    assert resumed["step"] == STEPS
    assert_equal(resumed, straight("resnet", name)[0])


# Parts of 4 steps: where one ends, or in one, in turn, and in the last.
CASES = [("resnet", name, step) for place, name in enumerate(NAMES) for step in ((4, 6)[place % 2], 11)]
CASES += [("vit", "one schedule", 5), ("vit", "hints, restarted", 8), ("vit", "greedy", 4), ("vit", "greedy", 9)]


@pytest.mark.parametrize(("kind", "name", "step"), CASES)
def test_a_run_goes_on_from_any_of_its_checkpoints(tmp_path, anchors, straight, kind, name, step):
    """Where a part ends, the next anchor and a restarted schedule have to begin, and not the old ones again."""
    expected, folder = straight(kind, name)
    trainer = whole_route(left_at(step, folder, tmp_path), anchors, kind, name)
    trainer.train(resume_from_checkpoint=True)
    assert_equal(outcome(trainer), expected)


@pytest.fixture(scope="module")
def straight(tmp_path_factory, anchors):
    """The same runs, never stopped: what each left, and its folder with the checkpoints of `CASES`."""
    done = {}

    def run(kind, name):
        if (kind, name) not in done:
            folder = tmp_path_factory.mktemp("whole")
            saving = SaveAt(*(step for *of, step in CASES if of == [kind, name]))
            trainer = whole_route(folder, anchors, kind, name, callbacks=[saving])
            trainer.train()
            done[kind, name] = {**outcome(trainer), "max_steps": trainer.state.max_steps}, folder
        return done[kind, name]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("step", [5, 8, 10])
def test_a_killed_run_goes_on_as_if_never_stopped(tmp_path, anchors, straight, step):
    """A callback that asks to stop leaves the trainer time to tidy up, which a kill does not."""
    code, output = forked("followed_routes.py", tmp_path, step, *anchors["resnet"])
    assert code == -signal.SIGKILL, output[-3000:]
    settings = {**EVALUATED, "save_strategy": "steps", "save_steps": 3}
    trainer = following(tmp_path, routes("resnet", anchors)["greedy"](), fast=True, **settings)
    trainer.train(resume_from_checkpoint=True)
    assert_equal(outcome(trainer), straight("resnet", "greedy")[0])


def test_routes_teach_different_students(straight):
    """The comparisons above would be worthless if every route ended in the same weights."""
    results = [straight("resnet", name)[0]["student"] for name in ("one schedule", "restarted", "two phases")]
    assert len(differing(results[0], results[1])) > 10 and len(differing(results[0], results[2])) > 10


def test_a_choice_is_kept_and_not_made_again(tmp_path, anchors):
    """In the middle of a part the student is closer to its anchor than it was, and would choose another one."""
    route = route_constrained(greedy(anchors["resnet"]))
    following(tmp_path, route, callbacks=[SaveAt(6), Interrupt(6)]).train()
    chosen = json.loads((tmp_path / "checkpoint-6" / "distillation_state.json").read_text())["routes"]["chosen"]
    assert [part for part, _ in chosen[0]] == [0, 1]
    calls = []

    class Spy(GreedyRoute):
        def choose(self, part, before, hardness):
            calls.append((part, before))
            return super().choose(part, before, hardness)

    route = Spy(anchors["resnet"], images(10, seed=9, labels=False), parts=3, delta=1.5)
    following(tmp_path, route_constrained(route)).train(resume_from_checkpoint=True)
    assert calls == [(2, chosen[0][1][1])]


def test_a_run_with_other_anchors_is_not_resumed(tmp_path, anchors):
    """Going on along another route mixes two experiments, and no log would say so."""
    settings = {"save_strategy": "steps", "save_steps": 6}
    folders = [Path(shutil.copytree(anchor, tmp_path / anchor.name)) for anchor in anchors["resnet"]]
    following(tmp_path / "run", route_constrained(folders), callbacks=[Interrupt(6)], **settings).train()
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    changes = {
        "other weights": [folders[1], folders[0], folders[2]],
        "fewer": folders[1:],
        "none": None,
    }
    for name, changed in changes.items():
        stages = knowledge_distillation() if changed is None else route_constrained(changed)
        with pytest.raises(ValueError, match="made with other weights for the teacher to take on"):
            following(tmp_path / "run", stages, **settings).train(resume_from_checkpoint=True)
        assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before, name
    with pytest.raises(ValueError, match="must agree to resume"):
        other = route_constrained(folders, shares=[0.5, 0.25, 0.25])
        following(tmp_path / "run", other, **settings).train(resume_from_checkpoint=True)
    # The same weights in another folder are the same route.
    moved = [folder.rename(tmp_path / f"moved-{folder.name}") for folder in folders]
    trainer = following(tmp_path / "run", route_constrained(moved), **settings)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == STEPS


def test_a_run_of_a_version_without_routes_is_resumed(tmp_path):
    """Checkpoints of runs without a route stay as good as they were."""
    settings = {"save_strategy": "steps", "save_steps": 6}
    following(tmp_path, knowledge_distillation(), callbacks=[Interrupt(6)], **settings).train()
    assert len(checkpoints.checkpoints(tmp_path)) == 1
    for path in checkpoints.checkpoints(tmp_path):
        state = json.loads((path / "distillation_state.json").read_text())
        assert state.pop("routes") is None
        (path / "distillation_state.json").write_text(json.dumps(state))
    trainer = following(tmp_path, knowledge_distillation(), **settings)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == STEPS


def test_a_longer_run_goes_on_along_the_route(tmp_path, anchors):
    """The parts are shares of the stage, so that a longer one still ends with the converged teacher."""
    settings = {"save_strategy": "steps", "save_steps": 5}
    for route in (anchors["resnet"], greedy(anchors["resnet"])):
        folder = tmp_path / type(route).__name__
        following(folder, route_constrained(route), max_steps=6, callbacks=[Interrupt(5)], **settings).train()
        trainer = following(folder, route_constrained(route), **settings)
        trainer.train(resume_from_checkpoint=True)
        log = [(entry["anchor"], entry["step"]) for entry in trainer.state.log_history if "anchor" in entry]
        assert trainer.state.global_step == STEPS and log[-1] == (3, 8)


# ---- What is refused before anything is trained ----


def test_an_anchor_that_changes_while_the_student_trains_is_refused(tmp_path, anchors):
    """Hours after the check the folder may hold another run's weights."""
    folders = [Path(shutil.copytree(anchor, tmp_path / anchor.name)) for anchor in anchors["resnet"]]
    trainer = following(tmp_path / "run", route_constrained(folders))
    shutil.copy(anchors["resnet"][0] / "model.safetensors", folders[1] / "model.safetensors")
    with pytest.raises(ValueError, match=r"checkpoint-200 was changed since the run began"):
        trainer.train()
    assert differing(tensors(trainer.teacher.model), tensors(teachers()[2])) == []


def test_a_route_needs_a_live_teacher(tmp_path, anchors):
    """Stored targets are those of one set of weights."""
    stages = route_constrained(anchors["resnet"])
    with pytest.raises(ValueError, match=r"the stages \['route'\] have weights .* there is none: pass `teacher`"):
        DistillationTrainer(resnet(4), arguments(tmp_path), stages=stages, train_dataset=images(8))
    cache = TeacherCache.__new__(TeacherCache)
    cache.channels = 3
    with pytest.raises(ValueError, match="the teacher is a cache, which holds what one set of weights said"):
        DistillationTrainer(resnet(4), arguments(tmp_path), teacher=cache, stages=stages, train_dataset=images(8))


def test_bad_anchors_are_refused_when_the_trainer_is_made(tmp_path, anchors):
    """All of them: the last one is needed after days of training."""
    half = Path(shutil.copytree(anchors["resnet"][2], tmp_path / "checkpoint-300"))
    content = (half / "model.safetensors").read_bytes()
    (half / "model.safetensors").write_bytes(content[: len(content) // 2])
    resnet(5, seed=1).save_pretrained(tmp_path / "wider")
    vit(12).save_pretrained(tmp_path / "vit")
    for folder, message in (
        (half, r"checkpoint-300 is not complete: .*model.safetensors was cut off"),
        (tmp_path / "wider", "wider is not of the teacher's architecture"),
        (tmp_path / "vit", "vit is a model of type 'vit', and the teacher .* of type 'resnet'"),
    ):
        with pytest.raises(ValueError, match=message):
            following(tmp_path / "out", route_constrained([*anchors["resnet"][:2], folder]))
    with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
        following(tmp_path / "out", route_constrained([*anchors["resnet"][:2], tmp_path / "nowhere"]))
    assert not list((tmp_path / "out").glob("*"))


def test_a_run_too_short_for_its_route_is_refused(tmp_path, anchors):
    """Before the checkpoints of another run are deleted for it."""
    following(tmp_path, knowledge_distillation(), max_steps=2, save_strategy="steps").train()
    trainer = following(tmp_path, route_constrained(anchors["resnet"]), max_steps=2, overwrite_output_dir=True)
    with pytest.raises(ValueError, match=r"stage 'route': 2 steps cannot be divided"):
        trainer.train()
    assert len(checkpoints.checkpoints(tmp_path)) == 2


class Plain(nn.Module):
    """A teacher that is no Hugging Face model."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(CLASSES)
        )
        self.body(torch.zeros(2, 3, 16, 16))

    def forward(self, pixels):
        return self.body(pixels)


def test_a_teacher_of_plain_torch_goes_a_route_too(tmp_path, asked):
    """Not every teacher comes from transformers."""
    from safetensors.torch import save_file

    models = [Plain(seed).eval() for seed in (1, 2)]
    for number, model in enumerate(models):
        (tmp_path / f"a{number}").mkdir()
        save_file(model.state_dict(), tmp_path / f"a{number}" / "model.safetensors")
    trainer = following(
        tmp_path / "out",
        route_constrained([tmp_path / "a0", tmp_path / "a1"]),
        teacher=Plain(2),
        max_steps=4,
        term_gradient_steps=0,
    )
    trainer.train()
    calls = [call for call in asked if len(call[0]["pixel_values"]) == 4]
    for number, (inputs, targets) in enumerate(calls):
        with torch.no_grad():
            torch.testing.assert_close(
                targets["logits"], models[number // 2](inputs["pixel_values"]), rtol=1e-4, atol=1e-5
            )
