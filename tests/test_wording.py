"""What others may read of what a user typed."""

import pytest

from hf_abkd.wording import public_name, shown_command, without_tokens


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        *[("owner/model", "owner/model"), ("cifar10", "cifar10"), ("package.module:factory", "package.module:factory")],
        *[("/home/me/secret/flowers", "flowers"), ("~/secret/flowers/", "flowers"), ("../secret/flowers", "flowers")],
        *[("runs/secret/flowers", "flowers"), ("C:\\secret\\flowers", "flowers"), ("secret/here", "here")],
        *[(".", "project"), ("secret/..", "project"), ("", "")],
    ],
)
def test_of_a_path_only_the_last_part_is_told(tmp_path, monkeypatch, name, shown):
    """Cards are public, and tell who worked where, and for whom."""
    (tmp_path / "project" / "secret" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    assert public_name(name) == shown


def test_a_command_is_shown_without_its_tokens():
    """Messages are pasted into public issues."""
    words = ["run.py", "--hub_token", "secret", "--token=secret", "--lr", "1", "--hub-token", "--push_to_hub", "a b"]
    expected = "run.py --hub_token '<hidden>' '--token=<hidden>' --lr 1 --hub-token --push_to_hub 'a b'"
    assert shown_command(words) == expected
    assert shown_command(["hf_abcdefghij"]) == "'<hidden>'"
    assert without_tokens("the arguments ['--tokn', 'hf_abcdefghij'] of hf_abkd") == (
        "the arguments ['--tokn', '<hidden>'] of hf_abkd"
    )
