"""Which students can be exported."""

import shutil

import pytest
import tiny
from peft import LoraConfig, get_peft_model

from hf_abkd.data.table.manifest import MANIFEST_NAME
from hf_abkd.export.stored_student import check_stored, load_stored
from hf_abkd.models.hub_options import HubOptions


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_what_is_no_stored_student_is_refused_before_it_is_loaded(student, tmp_path):
    """Random weights would be exported without a word, and adapters without what they belong to."""
    bare, cache, adapters = (tmp_path / name for name in ("bare", "cache", "adapters"))
    for folder in (bare, cache):
        folder.mkdir()
    shutil.copy(student / "config.json", bare)
    (cache / MANIFEST_NAME).write_text("{}")
    get_peft_model(tiny.vit(), LoraConfig(target_modules=["q_proj"])).save_pretrained(adapters)
    for name, told in {
        bare: "has no weights",
        cache: "is a cache of what a teacher says",
        adapters: "holds adapters, whose model lies elsewhere.*merge_and_unload",
        "package.module:factory": "is made by a function",
    }.items():
        with pytest.raises(ValueError, match=told):
            check_stored(str(name))
    with pytest.raises(FileNotFoundError, match="absent"):
        check_stored(str(tmp_path / "absent"))
    check_stored(str(student))
    check_stored("owner/model")


def test_a_student_is_loaded_with_all_that_lies_beside_it(student):
    """What is measured and shipped is the model in evaluation mode."""
    stored = load_stored(str(student), HubOptions())
    assert not stored.model.training and not any(each.requires_grad for each in stored.model.parameters())
    assert stored.card.startswith("---\nlicense: mit") and stored.channels == 3
    assert stored.bytes == (student / "model.safetensors").stat().st_size
    (student / "README.md").unlink()
    assert load_stored(str(student), HubOptions()).card is None


def test_a_student_stored_without_a_processor_needs_one_by_name(student, tmp_path, processor):
    """Images that are prepared otherwise are the commonest reason why what is shipped is worse."""
    (student / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match="no image processor found; name one with --image_processor_name"):
        load_stored(str(student), HubOptions())
    processor.save_pretrained(tmp_path / "other")
    stored = load_stored(str(student), HubOptions(), image_processor_name=str(tmp_path / "other"))
    assert stored.processor.size["height"] == tiny.SIZE
