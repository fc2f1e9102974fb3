"""Models of other tasks in the place of image classifiers: each is told in one sentence what it is."""

import pytest
from tiny import arguments, images, resnet
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    CLIPConfig,
    CLIPModel,
    ImageGPTConfig,
    ImageGPTForImageClassification,
    ResNetBackbone,
    ResNetModel,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    Wav2Vec2Config,
    Wav2Vec2ForSequenceClassification,
    YolosConfig,
    YolosForObjectDetection,
)

from hf_abkd import DistillationTrainer, knowledge_distillation, load_student, load_teacher
from hf_abkd.models.tasks.image_classification import IMAGE_CLASSIFICATION
from hf_abkd.teachers.live import LiveTeacher

SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
STAGES = {"hidden_sizes": [8] * 4, "depths": [1] * 4, "num_attention_heads": [1] * 4, "decoder_hidden_size": 8}
OTHERS = {
    "text": (
        lambda: BertForSequenceClassification(BertConfig(**SMALL, vocab_size=20)),
        "is a BertForSequenceClassification, which takes `input_ids`: it must be an image classifier, which takes",
    ),
    "audio": (
        lambda: Wav2Vec2ForSequenceClassification(
            Wav2Vec2Config(**SMALL, conv_dim=(8,), conv_stride=(5,), conv_kernel=(10,), num_conv_pos_embeddings=4,
                           num_conv_pos_embedding_groups=2)
        ),
        "is a Wav2Vec2ForSequenceClassification, which takes `input_values`: it must be an image classifier",
    ),
    "segmentation": (
        lambda: SegformerForSemanticSegmentation(SegformerConfig(**STAGES)),
        r"is a SegformerForSemanticSegmentation: .* \(SegformerForImageClassification, for example\)",
    ),
    "detection": (
        lambda: YolosForObjectDetection(YolosConfig(**SMALL, image_size=[16, 16], patch_size=8)),
        "is a YolosForObjectDetection: it must be an image classifier",
    ),
    "images and texts": (
        lambda: CLIPModel(CLIPConfig(text_config={**SMALL, "vocab_size": 20}, vision_config={**SMALL, "image_size": 16,
                                     "patch_size": 8}, projection_dim=8)),
        r"is a CLIPModel, which takes `input_ids`: .* \(CLIPForImageClassification, for example\)",
    ),
    "no head": (lambda: ResNetBackbone(resnet().config), "is a ResNetBackbone: it must be an image classifier"),
    "no pixels": (
        lambda: ImageGPTForImageClassification(ImageGPTConfig(n_embd=8, n_layer=1, n_head=2, vocab_size=20)),
        "is a ImageGPTForImageClassification, which takes the colour clusters",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_a_model_of_another_task_is_told_what_it_is(kind):
    """They ended in errors about shapes and dtypes, or about the columns of the data."""
    make, message = OTHERS[kind]
    model = make()
    with pytest.raises(TypeError, match=f"^the teacher {message}"):
        LiveTeacher(model)
    with pytest.raises(TypeError, match=f"^the student {message}"):
        IMAGE_CLASSIFICATION.check_model(model, "student")


def test_a_student_of_another_task_is_refused_by_the_trainer(tmp_path):
    """The check of the task has to be asked, before anything is read of the data."""
    with pytest.raises(TypeError, match=r"^the student is a ResNetModel: it must be an image classifier \(ResNetFor"):
        DistillationTrainer(
            ResNetModel(resnet().config),
            arguments(tmp_path),
            teacher=resnet(),
            stages=knowledge_distillation(),
            train_dataset=images(),
        )


def test_a_class_of_the_users_own_is_judged_by_what_it_returns():
    """It may have the head that its base has not."""

    class WithHead(ResNetModel):
        pass

    IMAGE_CLASSIFICATION.check_model(WithHead(resnet().config), "student")


def test_a_stored_teacher_of_another_task_is_refused_before_its_weights_are_read(tmp_path):
    """Gigabytes were loaded first, and then tensors were listed that nobody had asked about."""
    for kind in ("segmentation", "text"):
        OTHERS[kind][0]().save_pretrained(tmp_path / kind)
        (tmp_path / kind / "model.safetensors").write_bytes(b"not looked at")
    with pytest.raises(ValueError, match="is a SegformerForSemanticSegmentation.*its head would be random$"):
        load_teacher(str(tmp_path / "segmentation"), labels=None)
    for load in (load_teacher, load_student):
        with pytest.raises(ValueError, match="is a BertForSequenceClassification.*no image classifier of model type"):
            load(str(tmp_path / "text"), labels=None)
