"""What lies on the Hub after a run: the student as it was trained, what is needed to load it, and nothing else."""

import json
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from launched import forked_on, hub_port
from loopback_hub import LoopbackHub

EXAMPLES = Path(__file__).parents[3] / "examples"
PUBLISHED = ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]
CHECKPOINT = [
    *("config.json", "distillation_modules.safetensors", "distillation_plan.yaml", "distillation_state.json"),
    "model.safetensors",
    *("optimizer.pt", "preprocessor_config.json", "rng_state.pth", "scheduler.pt", "trainer_state.json"),
]
STRATEGIES = {"end": "vit", "every_save": "resnet", "checkpoint": "vit", "all_checkpoints": "resnet"}


class SlowHub(LoopbackHub):
    """A Hub on which a push takes longer than a step, as on the real one, and the first one longest."""

    def answer(self, method, address, headers, body):
        if "/commit/" in address:
            is_first = f"{method} {address}" not in self.requests
            time.sleep(0.25 if is_first else 0.05)
        return super().answer(method, address, headers, body)


class Exchange:
    """What one process published, and what another, which never saw this project's examples, loaded."""

    def __init__(self, hub, home):
        self.hub, self.home = hub, home
        (home / "tmp").mkdir()
        self.pushed = self.run("publish.py", "pushed.json", STRATEGIES)
        self.pulled = self.run("load_published.py", "pulled.json", [*STRATEGIES, "tuned", "custom"])

    def run(self, script, result, argument):
        settings = {"folder": self.home, "TMPDIR": str(self.home / "tmp")}
        code, output = forked_on(self.hub, script, self.home, json.dumps(argument), **settings)
        assert code == 0, output[-4000:]
        return json.loads((self.home / result).read_text())

    def tensors(self, name):
        return safetensors.torch.load_file(self.home / f"{name}.safetensors")

    def titles(self, name):
        return [commit.message for commit in self.hub.commits(f"user/{name}")]


@pytest.fixture(scope="module")
def exchange(tmp_path_factory):
    with SlowHub(hub_port()) as hub:
        yield Exchange(hub, tmp_path_factory.mktemp("publishing"))


@pytest.mark.parametrize("name", [*STRATEGIES, "tuned", "custom"])
def test_the_published_student_is_bit_equal_to_the_trained_one(exchange, name):
    """Users evaluate what they trained and publish something else: every tensor of every family must arrive."""
    trained, pulled = exchange.tensors(f"trained_{name}"), exchange.tensors(f"pulled_{name}")
    assert trained.keys() == pulled.keys()
    assert all(torch.equal(trained[key], pulled[key]) for key in trained)
    assert exchange.pulled[name]["problems"] == []
    assert exchange.pulled[name]["size"] == 16


@pytest.mark.parametrize(
    ("name", "folders"),
    [
        ("end", []),
        ("every_save", []),
        ("checkpoint", ["last-checkpoint"]),
        ("all_checkpoints", ["checkpoint-1", "checkpoint-2", "checkpoint-3", "checkpoint-4"]),
        ("tuned", []),
    ],
)
def test_nothing_but_the_student_and_what_loads_it_is_published(exchange, name, folders):
    """Pickles, event files, notebooks and the teacher would be public before anybody noticed."""
    expected = PUBLISHED + [f"{folder}/{file}" for folder in folders for file in CHECKPOINT]
    assert list(exchange.hub.files(f"user/{name}")) == sorted(expected)


@pytest.mark.parametrize(("name", "kind"), STRATEGIES.items())
def test_no_byte_of_the_teacher_is_published(exchange, name, kind):
    """A teacher may be private or licensed: it must not leave the machine inside a checkpoint or an optimiser."""
    files = exchange.hub.files(f"user/{name}")
    teacher = exchange.tensors(f"teacher_{kind}").values()
    secrets = [tensor.numpy().tobytes() for tensor in teacher if tensor.unique().numel() > 8]
    assert len(secrets) > 5
    for path, content in files.items():
        assert not [secret for secret in secrets if secret in content], path
    # The search finds tensors that are there.
    student = exchange.tensors(f"trained_{name}").values()
    own = [tensor.numpy().tobytes() for tensor in student if tensor.unique().numel() > 8]
    assert all(tensor in files["model.safetensors"] for tensor in own)


@pytest.mark.parametrize("name", ["every_save", "checkpoint", "all_checkpoints"])
def test_every_save_is_pushed_in_order_though_pushing_is_slower_than_training(exchange, name):
    """With `hub_always_push` a lost push is a lost student, and one that overtakes leaves the older one published."""
    saves = [f"Training in progress, step {step}" for step in (1, 2, 3, 4)]
    both = saves if name == "every_save" else [title for save in saves for title in (save, f"{save}, checkpoint")]
    assert exchange.titles(name) == ["initial commit", *both]
    weights = [exchange.hub.files(f"user/{name}", commit.oid) for commit in exchange.hub.commits(f"user/{name}")[1:]]
    assert len({files["model.safetensors"] for files in weights}) == 4


def test_the_last_save_is_pushed_though_another_push_is_on_its_way(exchange):
    """Skipping pushes saves time, but skipping the last one publishes a model that is not the trained one."""
    titles = exchange.titles("custom")
    assert titles[1] == "Training in progress, step 1"
    assert titles[-1] == "Training in progress, step 4"


def test_a_run_with_the_strategy_end_is_pushed_by_hand(exchange):
    """The Trainer pushes nothing by itself then; the message and the card's settings are the user's."""
    assert exchange.titles("end") == ["initial commit", "By hand"]
    metadata = exchange.pulled["end"]["card"]
    assert metadata["language"] == "en"
    assert metadata["tags"] == ["image-classification", "knowledge-distillation", "hf_abkd"]
    assert "distilled from the teacher `ViTForImageClassification` on Tiny" in exchange.pushed["card"]


def test_a_pushed_checkpoint_can_be_resumed_from(exchange):
    """That is what the checkpoint strategies are for, when the machine is gone."""
    assert exchange.pulled["checkpoint/last-checkpoint"] is None
    assert exchange.pulled["all_checkpoints/checkpoint-2"] is None


def test_a_push_in_the_background_is_a_future_and_saving_is_a_push(exchange):
    """Scripts written for the Trainer use both."""
    commits = exchange.hub.commits("user/tuned")
    assert [commit.message for commit in commits] == ["initial commit", "End of training", "Model save"]
    assert exchange.pushed["future"] == [True, commits[1].oid]


def test_private_repositories_and_revisions_are_as_asked_for(exchange):
    """A private model that becomes public, or a push to another branch, cannot be taken back."""
    assert {name: exchange.pulled[name]["private"] for name in (*STRATEGIES, "tuned")} == dict.fromkeys(
        (*STRATEGIES, "tuned"), True
    )
    assert exchange.pulled["custom"]["private"] is False
    assert exchange.pushed["no branch"] == "RevisionNotFoundError"


def test_nothing_tells_where_on_the_machine_of_the_author_things_lie(exchange):
    """The names of a user and of a client's folder would be public in a card or a checkpoint."""
    for name in (*STRATEGIES, "tuned", "custom"):
        for path, content in exchange.hub.files(f"user/{name}").items():
            assert str(exchange.home).encode() not in content, (name, path)
    state = json.loads(exchange.hub.files("user/checkpoint")["last-checkpoint/trainer_state.json"])
    assert state["best_model_checkpoint"] == "best"
    told = json.loads(exchange.hub.files("user/checkpoint")["last-checkpoint/distillation_state.json"])
    assert told["teacher"]["name_or_path"] == "vit"


def test_a_failed_push_in_the_background_is_told(exchange):
    """Training goes on, and without a word the user would find an old model on the Hub days later."""
    assert len(exchange.pushed["log"]) == 1
    assert "failed" in exchange.pushed["log"][0]
    assert "v3" in exchange.pushed["log"][0]
    assert exchange.pushed["leftovers"] == []


def test_a_card_names_base_and_teacher_that_are_on_the_hub(exchange):
    """The Hub builds a family tree from it; a model that is its own parent breaks that tree."""
    first = exchange.hub.commits("user/tuned")[1].oid
    card = exchange.hub.files("user/tuned", first)["README.md"].decode()
    assert "base_model: user/every_save\n" in card
    assert "[user/all_checkpoints](https://huggingface.co/user/all_checkpoints)" in card
    assert "base_model" not in exchange.pulled["tuned"]["card"]
    assert "base_model" not in exchange.pulled["end"]["card"]


def test_a_student_with_code_of_its_own_is_published_with_it(exchange):
    """Without the file, or the flag in the snippet, nobody but the author could load the model."""
    assert list(exchange.hub.files("user/custom")) == sorted([*PUBLISHED, "cifar_models.py", "own_processor.py"])
    source = (EXAMPLES / "cifar_models.py").read_bytes()
    assert exchange.hub.files("user/custom")["cifar_models.py"] == source
    assert exchange.pulled["custom"]["class"] == "CifarResNetForImageClassification"
    card = exchange.hub.files("user/custom")["README.md"].decode()
    assert card.count("trust_remote_code=True") == 2
    assert "trust_remote_code" not in exchange.pushed["card"]
    # Its own processor, and no other, shows the image upside down.
    usual, turned = exchange.pulled["tuned"]["pixels"], exchange.pulled["custom"]["pixels"]
    assert usual != turned
    assert usual == exchange.pulled["end"]["pixels"]


@pytest.mark.parametrize("name", [*STRATEGIES, "tuned", "custom"])
def test_the_snippet_of_the_card_runs_as_printed(exchange, name):
    """It is the first thing that a visitor of the page tries."""
    assert exchange.pulled[name]["printed"].startswith("class ")


def test_every_card_was_accepted_by_the_hub(exchange):
    """The Hub refuses the whole commit if the metadata are wrong."""
    assert "POST /api/validate-yaml" in exchange.hub.requests
    for name in (*STRATEGIES, "tuned", "custom"):
        metadata = exchange.pulled[name]["card"]
        assert metadata["library_name"] == "transformers"
        assert metadata["pipeline_tag"] == "image-classification"
    unknown = [request for request in exchange.hub.requests if exchange.hub.route(*request.split(" ", 1)) is None]
    assert unknown == []
