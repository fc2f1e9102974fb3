"""A teacher that adapts to a domain without labels while it teaches: one loss, two models, and nothing else moved."""

import json
from pathlib import Path

import pytest
import torch
from adaptation_runs import STEPS, Shifted, adapting, domains
from launched import in_two_processes
from tiny import RESNET_LAYERS, arguments, differing, images, losses, resnet, tensors, vit
from tiny_runs import Forwards, assert_equal, left_at, outcome, stopped_and_resumed
from torch.nn import functional
from transformers import ResNetForImageClassification, TrainerCallback

from hf_abkd import ActivationBoundary, CrossEntropy, KnowledgeDistillation, Stage, Term
from hf_abkd.data.paired_domains import PairedDomains
from hf_abkd.methods import domain_confusion, joint_adaptation
from hf_abkd.objectives import MaximumMeanDiscrepancy
from hf_abkd.training.terms.joint_distiller import refuse_unadaptable

SGD = {"optim": "sgd", "learning_rate": 0.05, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}


def features_of(model, pixels):
    found = []
    handle = model.classifier.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    logits = model(pixel_values=pixels).logits
    handle.remove()
    return logits, found[0].flatten(1)


def test_a_joint_step_is_a_step_of_each_model_by_its_own_loss(tmp_path):
    """A gradient of the student's loss in the teacher lets it drift to what is easy to imitate."""
    # Small steps: with larger ones roundings grow tenfold in three of them.
    trainer = adapting(tmp_path, **{**SGD, "learning_rate": 0.01}, eval_strategy="no")
    steps = Forwards().follow(trainer)
    student, teacher = resnet(4), resnet(6, seed=1)
    before = tensors(student, teacher)
    assert differing(before, tensors(trainer.model, trainer.teacher.model)) == []
    trainer.train()
    student.train(), teacher.train()
    assert len(steps) == STEPS
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.01) for model in (student, teacher)]
    (stage,) = joint_adaptation()
    expected = []
    for step, (inputs, _, given_labels, *_) in enumerate(steps):
        pixels, count = inputs["pixel_values"], len(inputs["pixel_values"]) // 2
        weights = {term.name: term.weight_at(step / STEPS) for term in stage.all_terms()}
        taught, features = features_of(teacher, pixels)
        discrepancy = MaximumMeanDiscrepancy()(features, torch.arange(2 * count) // count)
        teaching = weights["teacher/cross_entropy"] * functional.cross_entropy(taught[:count], given_labels[:count])
        teaching = teaching + weights["teacher/mmd"] * discrepancy
        logits = student(pixel_values=pixels).logits

        def divergence(ours, theirs):
            own, other = (ours / 20).log_softmax(1), (theirs.detach() / 20).softmax(1)
            return 400 * (other * (other.log() - own)).sum(1).mean()

        learning = weights["knowledge_distillation@target"] * divergence(logits[count:], taught[count:])
        learning = learning + weights["knowledge_distillation@source"] * divergence(logits[:count], taught[:count])
        labels = functional.cross_entropy(logits[:count], given_labels[:count])
        learning = learning + weights["cross_entropy@source"] * labels
        for optimizer, loss in zip(optimizers, (learning, teaching), strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        expected.append((learning + teaching).item())
    assert losses(trainer) == pytest.approx(expected, rel=1e-4)
    for ours, theirs, began in (
        (trainer.model, student, resnet(4)),
        (trainer.teacher.model, teacher, resnet(6, seed=1)),
    ):
        for name, tensor in ours.state_dict().items():
            torch.testing.assert_close(tensor, theirs.state_dict()[name], rtol=1e-3, atol=1e-4)
        assert len(differing(tensors(ours), tensors(began))) > 10


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    """The trainer of a finished run with checkpoints, about which several tests ask."""
    trainer = adapting(tmp_path_factory.mktemp("run"), save_strategy="steps", save_steps=4)
    trainer.train()
    return trainer


def test_every_term_of_both_models_is_logged(trainer):
    """A teacher that does not adapt, or forgets the source, has to show."""
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    names = [term.name for term in joint_adaptation()[0].all_terms()]
    assert len(logs) == STEPS
    for step, entry in enumerate(logs):
        weights = [entry[f"weight/{name}"] for name in names]
        assert entry["loss"] == pytest.approx(sum(w * entry[n] for w, n in zip(weights, names, strict=True)), rel=1e-4)
        assert entry["weight/teacher/cross_entropy"] + entry["weight/knowledge_distillation@target"] == pytest.approx(1)
        assert (entry["weight/teacher/mmd"] == 0) == (step == 0)


def test_both_models_stay_in_training_mode_after_evaluations(tmp_path):
    """Left in eval mode, the teacher stops to adapt after the first epoch, and nothing says so."""
    counts = []

    class Count(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **_):
            states = trainer.teacher.model.state_dict(), model.state_dict()
            counts.append([next(v.item() for k, v in s.items() if k.endswith("batches_tracked")) for s in states])

    settings = {"eval_strategy": "steps", "eval_steps": 2, "eval_agreement": True, "evaluate_teacher": True}
    trainer = adapting(tmp_path, callbacks=[Count()], **settings)
    trainer.train()
    assert counts == [[step, step] for step in range(1, STEPS + 1)]
    assert any("eval_target_loss" in entry for entry in trainer.state.log_history)
    # The agreement is with the teacher as it is, not with a copy of what it was.
    agreement = trainer.evaluate(images(8, seed=2))["eval_teacher_agreement"]
    pixels = torch.stack(list(images(8, seed=2)["pixel_values"]))
    with torch.no_grad():
        ours, theirs = (m.eval()(pixel_values=pixels).logits.argmax(1) for m in (trainer.model, trainer.teacher.model))
    assert agreement == pytest.approx((ours == theirs).float().mean().item())
    scores = trainer.evaluate_teacher(images(8, seed=2))
    truth = torch.tensor(list(images(8, seed=2)["labels"]))
    assert scores["teacher_accuracy"] == pytest.approx((theirs == truth).float().mean().item())


@pytest.mark.parametrize("confusion", ["mmd", "gradient_reversal"])
def test_a_resumed_run_has_the_teacher_that_it_had(tmp_path, confusion):
    """With the teacher of the beginning, the student would be taught by another model than before."""
    settings = {"stages": joint_adaptation(confusion=confusion)}
    straight = adapting(tmp_path / "straight", save_strategy="steps", save_steps=4, **settings)
    straight.train()

    def make(callbacks):
        return adapting(tmp_path / "stopped", callbacks=callbacks, save_strategy="steps", save_steps=2, **settings)

    one = outcome(straight)
    if confusion == "mmd":
        resumed = stopped_and_resumed(make, 4)
    else:
        left_at(4, tmp_path / "straight", tmp_path / "stopped")
        resumed = make([])
        resumed.train(resume_from_checkpoint=True)
    assert_equal(outcome(resumed), one)
    assert one["teacher"] and len(one["connectors"]) == (0 if confusion == "mmd" else 4)
    with pytest.raises(ValueError, match="was made with another teacher"):
        adapting(
            tmp_path / "stopped", teacher=resnet(6, seed=2), save_strategy="steps", save_steps=2, **settings
        ).train(resume_from_checkpoint=True)


def test_what_is_saved_is_the_student_alone_and_the_teacher_is_one_call_away(tmp_path, trainer):
    """The published folder must load as the student, and hold no byte of the teacher."""
    folder = Path(trainer.args.output_dir)
    trainer.save_model()
    loaded, info = ResNetForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert differing(tensors(loaded), tensors(trainer.model)) == []
    assert {p.name for p in folder.glob("*.safetensors")} == {"model.safetensors"}
    trainer.teacher.model.save_pretrained(tmp_path / "teacher")
    adapted = ResNetForImageClassification.from_pretrained(tmp_path / "teacher")
    assert differing(tensors(adapted), tensors(trainer.teacher.model)) == []
    assert not any(p.requires_grad or p.grad is not None for p in trainer.teacher.model.parameters())
    state = json.loads((folder / "checkpoint-8" / "distillation_state.json").read_text())
    assert len(state["stages"][0]["teacher_terms"]) == 2


def test_labels_of_the_target_are_never_read(tmp_path):
    """They are what the method does without; one look at them and its numbers mean nothing."""
    poisoned = images(20, seed=9)

    class Poison:
        def __len__(self):
            return 20

        def __getitem__(self, row):
            class Row(dict):
                def __getitem__(self, key):
                    if key == "labels":
                        raise AssertionError("a label of the target was read")
                    return super().__getitem__(key)

            return Row(pixel_values=poisoned[row]["pixel_values"])

    trainer = adapting(tmp_path, extra={"train_dataset": PairedDomains(images(32), Poison())}, max_steps=2)
    trainer.train()
    assert trainer.state.global_step == 2


def test_boundaries_can_be_learnt_from_a_teacher_that_moves(tmp_path):
    """Activation boundaries on both domains, of the teacher as it is in each step."""
    terms = [Term(ActivationBoundary(), student=a, teacher=b) for a, b in RESNET_LAYERS]
    trainer = adapting(tmp_path, stages=joint_adaptation(terms=terms))
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    for layer, _ in RESNET_LAYERS:
        assert 0 < logs[0][f"boundary_agreement/{layer}"] < 1
        assert logs[-1][f"activation_boundary/{layer}"] < logs[0][f"activation_boundary/{layer}"]


def test_a_student_adapts_alone_too(tmp_path):
    """What joint adaptation is compared with: distil on the source, then adapt the student."""
    stages = [
        Stage([Term(KnowledgeDistillation(), rows="source"), Term(CrossEntropy(), rows="source")], name="source"),
        Stage([Term(CrossEntropy(), rows="source"), domain_confusion()], name="adaptation"),
    ]
    before = tensors(resnet(6, seed=1))
    trainer = adapting(tmp_path, stages=stages)
    trainer.train()
    assert differing(before, tensors(trainer.teacher.model)) == []
    last = [entry for entry in trainer.state.log_history if "loss" in entry][-1]
    assert last["maximum_mean_discrepancy/classifier:input"] > 0 and last["stage"] == 2


def test_a_transformer_adapts_as_well(tmp_path):
    """Its classifier reads a token, and its dropout draws random numbers."""
    trainer = adapting(tmp_path, student=vit(8), teacher=vit(12, seed=1), max_steps=3)
    before = tensors(trainer.teacher.model)
    trainer.train()
    assert len(differing(before, tensors(trainer.teacher.model))) > 10


@pytest.mark.slow
def test_two_processes_keep_one_student_and_one_teacher(tmp_path):
    """A teacher outside of what is averaged would be another one on every process."""
    in_two_processes("adaptation_runs.py", tmp_path)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    for confusion in ("mmd", "gradient_reversal"):
        for part, model in (("student", resnet(4)), ("teacher", resnet(6, seed=1)), ("connectors", None)):
            one, other = first[confusion][part], second[confusion][part]
            assert [name for name in differing(one, other) if "running" not in name] == []
            if model is not None:
                assert len(differing(one, tensors(model))) > 10
    assert first["gradient_reversal"]["connectors"]


def refused(folder, message, error=ValueError, **settings):
    with pytest.raises(error, match=message):
        adapting(folder, **settings).train()


def test_what_cannot_work_is_refused_before_the_first_step(tmp_path):
    """Each of these would fail in the middle of a run, or read what must not be read."""
    refused(tmp_path, "batches have no groups of rows", extra={"train_dataset": images(16)})
    adapting = [Stage([Term(CrossEntropy()), domain_confusion()])]
    refused(
        tmp_path, "compares two domains, and batches have one", stages=adapting, extra={"train_dataset": images(16)}
    )
    best = {"load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 2, "eval_steps": 2}
    refused(tmp_path, "choose the student by labels of that domain", eval_strategy="steps", **best)
    refused(tmp_path, "no module 'clasifier'", stages=joint_adaptation(teacher_features="clasifier:input"))
    publishing = arguments(tmp_path, push_to_hub=True, hub_strategy="checkpoint")
    with pytest.raises(ValueError, match="hub_strategy='checkpoint' would publish it"):
        refuse_unadaptable("adaptation", resnet(6), args=publishing, cached=False, domains=True)
    plain = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 4))
    refused(tmp_path, "must be a Hugging Face model, got Sequential", teacher=plain)
    refused(tmp_path, "whose weights are torch.bfloat16", teacher=resnet(6).bfloat16())

    class Large(Shifted):
        def __getitem__(self, row):
            return {"pixel_values": torch.zeros(3, 24, 24)}

    large = {"train_dataset": PairedDomains(images(32), Large())}
    refused(tmp_path, r"source are \(3, 16, 16\) .* those of the target \(3, 24, 24\)", extra=large)
    unlabelled = {"train_dataset": PairedDomains(images(32, labels=False), Shifted())}
    refused(tmp_path, "needs labels, and the training set gives only", extra=unlabelled)
    (stage,) = joint_adaptation()
    with pytest.raises(
        ValueError, match="train the teacher, and compare with layers of a teacher, which it has none of"
    ):
        Stage(stage.terms, teacher_terms=[Term(ActivationBoundary(), student="a", teacher="b", name="own")])
    resnet(6, seed=1).save_pretrained(tmp_path / "anchor")
    with pytest.raises(ValueError, match="it cannot take on other weights"):
        Stage(stage.terms, teacher_terms=stage.teacher_terms, teacher=tmp_path / "anchor")
    assert not list(tmp_path.glob("checkpoint-*"))


def test_the_pairs_of_an_epoch_are_other_ones_in_the_next(tmp_path):
    """With the same partner in every epoch, half of a larger target would never be seen beside another source."""
    pairs = domains()
    trainer = adapting(tmp_path, extra={"train_dataset": pairs}, max_steps=8)
    trainer.train()
    assert int(pairs._epoch) == 1


def test_the_model_card_says_how_the_teacher_was_trained(trainer):
    """The fingerprint in it is of the teacher that was passed, which is another one afterwards."""
    trainer.create_model_card()
    card = Path(trainer.args.output_dir, "README.md").read_text()
    assert "MaximumMeanDiscrepancy(multiples=(0.25, 0.5, 1.0, 2.0, 4.0)) * Product(" in card
    assert "gretton2012kernel" in card
