import sys

import pytest
from saved_models import VIT, resnet_config
from transformers import ConvNextImageProcessorPil, ViTConfig, ViTImageProcessorPil

from hf_abkd.models.processors import load_processor, own_processor


def test_a_student_has_its_own_processor(tmp_path):
    """Normalised like the teacher's images, a student pretrained otherwise starts far below its accuracy."""
    ViTImageProcessorPil(size={"height": 20, "width": 20}).save_pretrained(tmp_path / "student")
    ConvNextImageProcessorPil().save_pretrained(tmp_path / "teacher")
    processor = load_processor(str(tmp_path / "student"), fallback=str(tmp_path / "teacher"))
    assert isinstance(processor, ViTImageProcessorPil)
    assert processor.size["height"] == 20
    assert load_processor(str(tmp_path / "student" / "preprocessor_config.json")).size["height"] == 20


@pytest.mark.parametrize("student", ["student", "student/config.json"])
def test_a_student_without_a_processor_uses_the_teachers(tmp_path, student, logged):
    """Read as a processor, a model's config.json would give default sizes that fit neither model."""
    ViTConfig(**VIT).save_pretrained(tmp_path / "student")
    ViTImageProcessorPil(size={"height": 20, "width": 20}).save_pretrained(tmp_path / "teacher")
    processor = load_processor(str(tmp_path / student), fallback=str(tmp_path / "teacher"))
    assert processor.size["height"] == 20
    assert "has no image processor: using that of" in logged.text


def test_a_hub_student_without_a_processor_uses_the_teachers(tmp_path, hub_cache):
    """Many checkpoints on the Hub were uploaded without one."""
    resnet_config().save_pretrained(hub_cache("owner/student"))
    ViTImageProcessorPil(size={"height": 20, "width": 20}).save_pretrained(hub_cache("owner/teacher"))
    processor = load_processor("owner/student", fallback="owner/teacher", cache_dir=str(tmp_path))
    assert processor.size["height"] == 20
    refs = hub_cache("owner/branched").parents[1] / "refs"
    (refs / "main").rename(refs / "v2")
    ViTImageProcessorPil(size={"height": 24, "width": 24}).save_pretrained(refs.parent / "snapshots" / ("0" * 40))
    processor = load_processor(
        "owner/student", fallback="owner/branched", fallback_revision="v2", cache_dir=str(tmp_path)
    )
    assert processor.size["height"] == 24


def test_a_factory_has_no_processor(tmp_path, factories):
    """Looked up on the Hub, the name would be reported as a malformed repository."""
    ViTImageProcessorPil(size={"height": 20, "width": 20}).save_pretrained(tmp_path / "teacher")
    assert load_processor("own_factories:student", fallback=str(tmp_path / "teacher")).size["height"] == 20
    with pytest.raises(ValueError, match=r"--image_processor_name.*'own_factories:student' is made by a function"):
        load_processor("own_factories:student", fallback="own_factories:plain")
    assert "own_factories" not in sys.modules


def test_a_models_own_processor_is_found_or_none(tmp_path, factories, hub_cache):
    """A teacher shown images that were prepared for the student teaches what it sees in wrong colours."""
    ViTImageProcessorPil(size={"height": 20, "width": 20}).save_pretrained(tmp_path / "teacher")
    assert own_processor(str(tmp_path / "teacher")).size["height"] == 20
    ViTImageProcessorPil(size={"height": 24, "width": 24}).save_pretrained(hub_cache("owner/teacher"))
    assert own_processor("owner/teacher", revision="main", cache_dir=str(tmp_path), token=None).size["height"] == 24
    resnet_config().save_pretrained(tmp_path / "without")
    for name in (str(tmp_path / "without"), "own_factories:plain"):
        assert own_processor(name, trust_remote_code=False) is None
    (tmp_path / "teacher" / "preprocessor_config.json").write_text('{"image_processor_type": "Gone"}')
    with pytest.raises(OSError, match=r"image processor of .*teacher' could not be loaded"):
        own_processor(str(tmp_path / "teacher"))
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        own_processor("./gone")


def test_no_processor_at_all_tells_the_flag(tmp_path):
    """A default processor would silently normalise with the statistics of another data set."""
    ViTConfig(**VIT).save_pretrained(tmp_path / "student")
    resnet_config().save_pretrained(tmp_path / "teacher")
    with pytest.raises(ValueError, match=r"--image_processor_name.*student.*teacher"):
        load_processor(str(tmp_path / "student"), fallback=str(tmp_path / "teacher"))
    with pytest.raises(ValueError, match="--image_processor_name"):
        load_processor(str(tmp_path / "student"))


def test_a_broken_processor_is_not_replaced_by_the_teachers(tmp_path):
    """Falling back here would hide the mistake and train on other pixels."""
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "preprocessor_config.json").write_text('{"image_processor_type": "Gone"}')
    ViTImageProcessorPil().save_pretrained(tmp_path / "teacher")
    with pytest.raises(OSError, match=r"image processor of .*student' could not be loaded"):
        load_processor(str(tmp_path / "student"), fallback=str(tmp_path / "teacher"))
