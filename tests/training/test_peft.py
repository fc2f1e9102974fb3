"""A student with LoRA adapters: they alone are trained, and what is published is a plain model without them."""

import json
import shutil
import sys
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import HfApi
from killed_runs import augmented
from safetensors import safe_open
from tiny import CLASSES, arguments, differing, images, resnet, tensors, vit
from tiny_runs import LEAN, AtStart, Interrupt, assert_equal, connectors_of, outcome, pieces
from torch import nn
from transformers import AutoModelForImageClassification, TrainerCallback, ViTForImageClassification

from hf_abkd import DistillationTrainer, activation_boundary
from hf_abkd.layers.capture import Capture, CapturePoint
from hf_abkd.models import adapters, saving
from hf_abkd.training.life import checkpoints
from hf_abkd.training.life.saved_state import STATE_NAME
from hf_abkd.training.publishing import publisher

peft = pytest.importorskip("peft", minversion="0.20")
pytestmark = [
    # peft 0.21 asks transformers under an old name.
    pytest.mark.filterwarnings("ignore:aLoRA is currently only supported for CAUSAL_LM"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

ATTENTION = {"target_modules": ["q_proj", "v_proj"], "modules_to_save": ["classifier"]}
CONVOLUTIONS = {"target_modules": ["convolution"], "modules_to_save": ["classifier.1"]}
# The first stage takes 3 of 10 steps, and checkpoints are written at 2, 3, 4, 6, 8 and 10. Six steps are an epoch.
SHORT = {**LEAN, "max_steps": 10, "save_steps": 2, "data": images(24)}
PUBLISHED = ["config.json", "model.safetensors"]


def config(kind, **settings):
    targets = ATTENTION if kind == "vit" else CONVOLUTIONS
    return peft.LoraConfig(**{"r": 2, "lora_alpha": 8, "lora_dropout": 0.1, **targets, **settings})


def plain(kind, **settings):
    return vit(8, **settings) if kind == "vit" else resnet(4, **settings)


def student(kind, *, seed=0, **settings):
    """A student as its user makes it: always the same base, and adapters drawn from a seed."""
    base = plain(kind)
    torch.manual_seed(seed)
    if kind == "added":
        base.add_adapter(config(kind, **settings))
        return base
    return peft.get_peft_model(base, config(kind, **settings))


def parts(kind, **settings):
    """Student, teacher and stages of a run."""
    return student(kind, **settings), *pieces(kind)[1:]


def logits(model):
    with torch.no_grad():
        return model.eval()(pixel_values=torch.stack(images(8, seed=5)[:]["pixel_values"])).logits


def published(folder):
    """The model of a folder as anybody loads it, who need not have peft."""
    model, info = AutoModelForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    assert not adapters.has_adapters(model)
    return model


# ---- Training ----


@dataclass
class Learnt:
    """A run of one kind of adapters that has ended, and what its models were when it began."""

    kind: str
    inside: nn.Module
    trainer: DistillationTrainer
    before: dict[str, torch.Tensor]
    frozen: set[str]
    connectors: dict[str, torch.Tensor]


@pytest.fixture(scope="module", params=["vit", "resnet", "added"])
def learnt(request, tmp_path_factory):
    """A finished run of each kind of adapters."""
    given = parts(request.param)
    inside = adapters.unwrapped(given[0])
    before, frozen = tensors(inside), {name for name, p in inside.named_parameters() if not p.requires_grad}
    trainer = augmented(tmp_path_factory.mktemp(request.param), *given, save_strategy="no", max_steps=14)
    connectors = {}
    trainer.add_callback(AtStart(lambda: connectors.update(connectors_of(trainer))))
    trainer.train()
    return Learnt(request.param, inside, trainer, before, frozen, connectors)


def test_only_adapters_and_connectors_are_trained(learnt):
    """A base that moves would cost the memory that LoRA saves, and adapters that stand still would learn nothing."""
    trainer, inside = learnt.trainer, learnt.inside
    assert trainer.model is inside
    changed = {name.removeprefix("0.") for name in differing(learnt.before, tensors(trainer.model))}
    trained = {name for name, _ in inside.named_parameters()} - learnt.frozen
    assert len(trained) > 8 and all("lora_" in name or "modules_to_save" in name for name in trained)
    statistics = {name for name, _ in inside.named_buffers()}
    assert changed == trained | statistics and bool(statistics) == (learnt.kind != "vit")
    assert differing(learnt.connectors, connectors_of(trainer))
    assert {name for name, p in inside.named_parameters() if not p.requires_grad} == learnt.frozen
    logged = set().union(*trainer.state.log_history)
    assert {"gradient_ratio/knowledge_distillation", "gradient_ratio/cross_entropy"} <= logged


def test_the_head_that_a_stage_does_not_reach_is_frozen_in_it(tmp_path):
    """The initialisation by boundaries ends before the head; weight decay would shrink it meanwhile."""
    given = parts("vit")
    given[2][:] = given[2][:1]
    given[2][0].share = None
    before = tensors(adapters.unwrapped(given[0]))
    trainer = augmented(tmp_path, *given, save_strategy="no", max_steps=3, weight_decay=0.1, **LEAN)
    trainer.train()
    changed = differing(before, tensors(trainer.model))
    assert changed and not any("classifier" in name for name in changed)


def test_a_name_of_the_plain_model_means_the_layer_with_its_adapter():
    """Captured below the adapter, a layer would be compared without what is learnt in it."""
    with_adapters = student("vit", lora_dropout=0.0, init_lora_weights=False).get_base_model().eval()
    point = CapturePoint("vit.layers.1.attention.q_proj", "output")
    pixels = torch.stack(images(2)[:]["pixel_values"])
    found = []
    for model in (with_adapters, adapters.merged(with_adapters), plain("vit").eval()):
        with torch.no_grad(), Capture(model, [point]) as capture:
            found.append(capture.run(lambda model=model: model(pixel_values=pixels))[1][point])
    torch.testing.assert_close(found[0], found[1])
    assert (found[0] - found[2]).abs().max() > 0.1


def test_layers_are_paired_as_without_adapters(tmp_path):
    """The small matrices of adapters in the last layers only would make these layers look deeper than they are."""
    late = config("vit", target_modules=r".*layers\.(4|5)\.(attention\.\w_proj|mlp\.fc\d)")
    settings = vit(8).config
    settings.num_hidden_layers = 6

    def plan(model):
        teacher = resnet(6, seed=1)
        trainer = DistillationTrainer(
            model, arguments(tmp_path), teacher=teacher, stages=activation_boundary(), train_dataset=images(4)
        )
        return trainer.plan

    with_adapters = peft.get_peft_model(ViTForImageClassification(settings), late)
    assert plan(with_adapters) == plan(ViTForImageClassification(settings))


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_a_student_is_made_by_model_init(tmp_path, kind):
    """The function returns what the user has, a PeftModel, and is called again in every run."""
    trainer = DistillationTrainer(
        args=arguments(tmp_path, max_steps=2), model_init=lambda: student(kind), train_dataset=images(8)
    )
    trainer.train()
    first = trainer.model
    assert type(first) is type(plain(kind))
    trainer.train()
    assert trainer.model is not first and adapters.has_adapters(trainer.model)
    trainer.save_model()
    published(tmp_path)


# ---- Publishing ----


def test_the_published_student_needs_nothing_else(learnt, tmp_path):
    """Adapters beside a base need peft and the base; wrongly merged ones give other answers without a word."""
    trainer, kind = learnt.trainer, learnt.kind
    before = tensors(trainer.model)
    trainer.save_model(tmp_path / "published")
    assert differing(before, tensors(trainer.model)) == [], "training goes on unmerged"
    assert sorted(path.name for path in (tmp_path / "published").iterdir() if "plan" not in path.name) == PUBLISHED
    model = published(tmp_path / "published")
    assert set(model.state_dict()) == set(plain(kind).state_dict())
    with safe_open(tmp_path / "published" / "model.safetensors", framework="pt") as file:
        assert not [name for name in file.keys() if "lora" in name or "base_layer" in name]  # noqa: SIM118
    torch.testing.assert_close(logits(model), logits(trainer.model), rtol=1e-4, atol=1e-5)
    assert (logits(model) - logits(plain(kind))).abs().max() > 1e-2, "the adapters did not learn"
    assert trainer.card_facts().parameters == plain(kind).num_parameters()


def test_the_trained_adapters_can_still_be_saved_by_peft(tmp_path):
    """A user who wants the small file beside the published student has the PeftModel in hand."""
    given = parts("vit")
    augmented(tmp_path / "run", *given, save_strategy="no", max_steps=4, **LEAN).train()
    given[0].save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(vit(8), tmp_path / "adapter")
    assert torch.equal(logits(again), logits(given[0]))


KINDS = {
    "dora": {"use_dora": True},
    "rank-stabilised": {"use_rslora": True},
    "biases": {"bias": "lora_only"},
    "of the whole head": {"target_modules": "all-linear", "modules_to_save": None},
}


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_every_kind_of_lora_is_merged(kind, settings):
    """Each has a formula of its own for the merged weight."""
    model = adapters.unwrapped(student(kind, init_lora_weights=False, **settings))
    adapters.check_adapters(model)
    before = tensors(model)
    copy = adapters.merged(model)
    torch.testing.assert_close(logits(copy), logits(model), rtol=1e-4, atol=1e-5)
    assert (logits(copy) - logits(plain(kind))).abs().max() > 1e-2
    assert differing(before, tensors(model)) == [] and set(copy.state_dict()) == set(plain(kind).state_dict())


def test_an_adapter_inside_a_module_of_another_is_merged_too():
    """A second adapter may lie in a module that the first one trains whole: left there, its keys would be published."""
    model = student("vit", init_lora_weights=False, modules_to_save=["mlp"])
    model.add_adapter("second", config("vit", target_modules=["fc1"], modules_to_save=None, init_lora_weights=False))
    model.base_model.set_adapter(["default", "second"])
    inside = model.get_base_model()
    adapters.check_adapters(inside)
    copy = adapters.merged(inside)
    assert set(copy.state_dict()) == set(plain("vit").state_dict())
    torch.testing.assert_close(logits(copy), logits(inside), rtol=1e-4, atol=1e-5)
    model.base_model.set_adapter("default")
    assert (logits(copy) - logits(inside)).abs().max() > 1e-4, "the second adapter does nothing"


def test_a_student_without_adapters_is_not_copied():
    """A copy in every save would be memory for nothing."""
    model = plain("vit")
    assert adapters.merged(model) is model and adapters.unwrapped(model) is model


def test_nothing_is_asked_of_peft_where_it_is_not_installed(tmp_path, monkeypatch):
    """It is needed by those who have adapters, and by nobody else."""
    monkeypatch.setitem(sys.modules, "peft", None)
    trainer = DistillationTrainer(vit(8), arguments(tmp_path, max_steps=1), train_dataset=images(8))
    trainer.train()
    trainer.save_model()
    assert differing(tensors(published(tmp_path)), tensors(trainer.model)) == []


# ---- Resuming ----


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a run of each kind starts with, and what it leaves if nothing stops it."""

    @cache
    def run(kind):
        trainer = augmented(tmp_path_factory.mktemp("whole"), *parts(kind), **{**SHORT, "save_strategy": "no"})
        started = tensors(trainer.model)
        trainer.train()
        return started, outcome(trainer)

    return run


# In the first stage, between the stages, in the second.
@pytest.mark.parametrize(("kind", "step"), [("vit", 2), ("vit", 3), ("resnet", 3), ("resnet", 8), ("added", 8)])
def test_a_stopped_run_goes_on_as_if_never_stopped(tmp_path, whole, kind, step):
    """Merged weights cannot be taken apart again: adapters, head and BatchNorm statistics have to come back as such."""
    started, expected = whole(kind)
    stopped = augmented(tmp_path / "stopped", *parts(kind), callbacks=[Interrupt(step)], **SHORT)
    assert differing(tensors(stopped.model), started) == []
    stopped.train()
    assert stopped.state.global_step == step
    resumed = augmented(tmp_path / "stopped", *parts(kind, seed=7), **SHORT)
    assert differing(tensors(resumed.model), started), "adapters are drawn anew"
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 10
    assert_equal(outcome(resumed), expected)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint in the second stage, and the tensors that its run had then."""
    folder = tmp_path_factory.mktemp("run")
    trainer = augmented(folder, *parts("resnet"), callbacks=[Interrupt(6)], **SHORT)
    trainer.train()
    return folder / "checkpoint-6", tensors(trainer.model)


def test_a_checkpoint_holds_the_plain_student_and_what_resuming_needs(checkpoint):
    """The one without the other cannot be published, or not be resumed."""
    folder, at_save = checkpoint
    assert {path.name for path in folder.glob("*.safetensors")} == {
        "model.safetensors",
        checkpoints.MODULES_NAME,
        saving.UNMERGED_NAME,
    }
    published(folder)
    other = adapters.unwrapped(student("resnet", seed=7))
    saving.restore_student(other, folder)
    assert differing(tensors(other), at_save) == []


def test_a_checkpoint_without_the_adapters_is_incomplete(checkpoint, tmp_path):
    """It would be resumed with adapters drawn anew on top of weights that were never the base."""
    folder = tmp_path / "checkpoint-6"
    shutil.copytree(checkpoint[0], folder)
    assert checkpoints.incomplete(folder) is None
    whole = (folder / saving.UNMERGED_NAME).read_bytes()
    (folder / saving.UNMERGED_NAME).write_bytes(whole[:-10])
    assert "cut off" in checkpoints.incomplete(folder)
    (folder / saving.UNMERGED_NAME).unlink()
    assert saving.UNMERGED_NAME in checkpoints.incomplete(folder)


def test_a_checkpoint_without_adapters_is_complete_without_their_file(tmp_path):
    """Runs of plain students have no such file, before and after this version."""
    trainer = augmented(tmp_path, *pieces("vit"), callbacks=[Interrupt(3)], **SHORT)
    trainer.train()
    folder = tmp_path / "checkpoint-3"
    assert checkpoints.incomplete(folder) is None and not (folder / saving.UNMERGED_NAME).exists()
    state = json.loads((folder / STATE_NAME).read_text())
    del state["unmerged"]
    (folder / STATE_NAME).write_text(json.dumps(state))
    assert checkpoints.incomplete(folder) is None
    with pytest.raises(ValueError, match="was saved without adapters, and this one has some"):
        saving.restore_student(adapters.unwrapped(student("vit")), folder)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: plain("resnet"), "was saved with adapters, and this one has none"),
        (lambda: student("resnet", lora_alpha=16), "give other weights here than where they were saved"),
        (lambda: student("resnet", use_rslora=True), "give other weights here than where they were saved"),
        (lambda: student("resnet", r=3), "do not fit this ResNetForImageClassification"),
        (lambda: student("resnet", modules_to_save=None), "do not fit this ResNetForImageClassification"),
    ],
    ids=["none", "alpha", "rslora", "rank", "head"],
)
def test_a_run_is_not_resumed_with_other_adapters(checkpoint, other, message):
    """Another scale of the same matrices is another model, and no shape tells."""
    with pytest.raises(ValueError, match=message):
        saving.restore_student(adapters.unwrapped(other()), checkpoint[0])


def test_weights_that_the_adapters_were_split_from_come_back(tmp_path):
    """PiSSA takes its matrices out of the frozen weights: with the original ones the student would count them twice."""
    given = student("vit", init_lora_weights="pissa")
    model = given.get_base_model()
    assert differing(
        {"weight": vit(8).vit.layers[0].attention.q_proj.weight},
        {"weight": model.vit.layers[0].attention.q_proj.base_layer.weight},
    )
    saving.save_student(model, None, tmp_path)
    saving.save_unmerged(model, tmp_path)
    other = adapters.unwrapped(student("vit"))
    saving.restore_student(other, tmp_path)
    assert differing(tensors(other), tensors(model)) == []
    torch.testing.assert_close(logits(published(tmp_path)), logits(vit(8)), rtol=1e-4, atol=1e-5)


class Seen(TrainerCallback):
    """Keeps the tensors that the student had when it was saved, and spoils them late in the run."""

    def __init__(self):
        self.at = {}

    def on_step_begin(self, args, state, control, model, **_):
        if state.global_step >= 5:
            with torch.no_grad():
                for tensor in (*model.parameters(), *model.buffers()):
                    tensor += torch.rand(tensor.shape) if tensor.is_floating_point() else 1

    def on_save(self, args, state, control, model, **_):
        self.at[state.global_step] = tensors(model)


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_the_best_model_comes_back_with_its_adapters(tmp_path, kind):
    """The merged weights of the best step loaded below the adapters of the last would count both."""
    seen = Seen()
    trainer = augmented(
        tmp_path,
        *parts(kind),
        max_steps=8,
        eval_strategy="steps",
        eval_steps=2,
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        **LEAN,
    )
    trainer.add_callback(seen)
    trainer.train()
    best = trainer.state.best_global_step
    assert best < 8 and differing(seen.at[best], seen.at[8])
    assert differing(tensors(trainer.model), seen.at[best]) == []
    measured = {entry["step"]: entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry}
    assert trainer.evaluate()["eval_loss"] == pytest.approx(measured[best], rel=1e-6)
    trainer.save_model()
    torch.testing.assert_close(logits(published(tmp_path)), logits(trainer.model), rtol=1e-4, atol=1e-5)


# ---- The Hub ----


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint", "all_checkpoints"])
def test_only_checkpoints_are_uploaded_with_the_adapters(tmp_path, monkeypatch, strategy):
    """Who downloads the student has no use for a second copy of its weights; who resumes needs it."""
    uploads, done = [], Future()
    done.set_result(None)

    def upload(files, _repo, *, path_in_repo=None, **_):
        uploads.append((path_in_repo, sorted(path.name for path in files)))
        return done

    monkeypatch.setattr(publisher, "upload", upload)
    monkeypatch.setattr(HfApi, "create_repo", lambda _, name, **__: SimpleNamespace(repo_id=name))
    settings = {"push_to_hub": True, "hub_model_id": "user/student", "hub_strategy": strategy}
    trainer = DistillationTrainer(
        student("vit"), arguments(tmp_path, save_strategy="steps", save_steps=4, **settings), train_dataset=images(16)
    )
    trainer.train()
    roots = [names for folder, names in uploads if folder is None]
    assert roots and all(names == ["README.md", *PUBLISHED] for names in roots)
    folders = {folder: names for folder, names in uploads if folder is not None}
    expected = {"every_save": set(), "checkpoint": {"last-checkpoint"}, "all_checkpoints": {"checkpoint-4"}}
    assert set(folders) == expected[strategy]
    assert all(saving.UNMERGED_NAME in names for names in folders.values())


# ---- Refused ----


def quantised():
    model = student("vit")
    model.get_base_model().is_quantized = True
    return model


def bytes_below():
    model = student("vit")
    layer = model.get_base_model().vit.layers[0].attention.k_proj
    layer.weight = nn.Parameter(layer.weight.detach().to(torch.int8), requires_grad=False)
    return model


def already_merged():
    model = student("vit")
    model.merge_adapter()
    return model


def switched_off():
    model = student("vit")
    model.base_model.disable_adapter_layers()
    return model


def frozen():
    model = student("vit")
    model.requires_grad_(False)
    return model


def prompts():
    # peft makes them for models with words only.
    model = vit(8)
    model.config.vocab_size = CLASSES
    sizes = {"num_layers": 2, "token_dim": 8, "num_attention_heads": 2, "num_transformer_submodules": 1}
    return peft.PeftModel(model, peft.PromptTuningConfig(num_virtual_tokens=2, **sizes))


REFUSED = {
    "prompts": (prompts, TypeError, "type ['PROMPT_TUNING'], and only LORA is supported"),
    "scales": (
        lambda: peft.get_peft_model(
            vit(8), peft.IA3Config(target_modules=["k_proj", "fc2"], feedforward_modules=["fc2"])
        ),
        TypeError,
        "type ['IA3'], and only LORA is supported",
    ),
    "quantised": (quantised, TypeError, "are quantised"),
    "bytes": (bytes_below, TypeError, "are quantised"),
    "merged": (already_merged, ValueError, "are merged into its weights"),
    "off": (switched_off, ValueError, "are switched off"),
    "frozen": (frozen, ValueError, "is_trainable=True"),
    "unmergeable": (
        lambda: student("vit", alora_invocation_tokens=[1]),
        TypeError,
        "cannot be merged into its weights (aLoRA does not support",
    ),
    "half": (lambda: peft.get_peft_model(vit(8).half(), config("vit")), TypeError, "are torch.float16"),
    "mixed": (lambda: peft.PeftMixedModel(vit(8), config("vit")), TypeError, "got PeftMixedModel"),
}


@pytest.mark.parametrize(("make", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_adapters_that_could_not_be_published_are_refused_at_once(tmp_path, make, error, message):
    """After days of training it would be too late to learn that the student cannot be saved."""
    with pytest.raises(error) as caught:
        DistillationTrainer(make(), arguments(tmp_path), train_dataset=images(8))
    assert message in str(caught.value)
    with pytest.raises(error):
        DistillationTrainer(args=arguments(tmp_path), model_init=make, train_dataset=images(8))


def test_added_adapters_of_another_kind_are_refused_too(tmp_path):
    """`add_adapter` leaves a PreTrainedModel, which looks like a plain student."""
    model = vit(8)
    model.add_adapter(peft.IA3Config(target_modules=["k_proj", "fc2"], feedforward_modules=["fc2"]))
    with pytest.raises(TypeError, match="only LORA is supported"):
        DistillationTrainer(model, arguments(tmp_path), train_dataset=images(8))
