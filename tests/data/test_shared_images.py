import pytest
import torch
from processors import BICUBIC, BILINEAR, bgr, colours, grey, noise, offset, pixels_of, square, vit
from torch.nn import functional as F
from transformers import MobileViTImageProcessorPil, ViTImageProcessorPil

from hf_abkd.data.augment import Compose, RandomCrop, RandomHorizontalFlip
from hf_abkd.data.colours import ColourMap
from hf_abkd.data.draws import Draws
from hf_abkd.data.preprocessing import Preprocessing
from hf_abkd.data.shared_images import SharedImages


def shared_images(student, teacher, channels=3):
    return SharedImages(Preprocessing.measured(student, channels), Preprocessing.measured(teacher, channels))


COLOURS = [vit, bgr, offset]


@pytest.mark.parametrize("student", COLOURS)
@pytest.mark.parametrize("teacher", COLOURS)
def test_each_model_reads_the_colours_of_its_own_processor(student, teacher):
    """One of the two would otherwise see an image unlike those it was trained or will be used on."""
    images = [noise(24, 24), noise(24, 24, seed=1)]
    both = shared_images(student(), teacher())
    canvas = both.canvas(pixels_of(*images))
    torch.testing.assert_close(both.student(canvas), colours(student(), *images), atol=1e-5, rtol=0)
    torch.testing.assert_close(both.teacher(canvas), colours(teacher(), *images), atol=1e-5, rtol=0)
    torch.testing.assert_close(both.teacher_only(pixels_of(*images)), both.teacher(canvas), atol=1e-5, rtol=0)


@pytest.mark.parametrize("canvas_side", [24, 40], ids=["enlarged", "shrunk"])
@pytest.mark.parametrize("resample", [BILINEAR, BICUBIC])
@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_the_teacher_reads_the_canvas_as_its_processor_would(canvas_side, resample, order):
    """Without antialiasing or with colours beyond white its images would not be like those it was trained on."""
    image = noise(canvas_side, canvas_side)
    teacher = (
        vit(32, resample=resample)
        if order == "rgb"
        else MobileViTImageProcessorPil(size=square(32), do_center_crop=False, resample=resample)
    )
    both = shared_images(offset(canvas_side), teacher)
    seen = both.teacher(both.canvas(pixels_of(image)))
    level = max(max(row) for row in both.teacher_preprocessing.matrix)
    # PIL rounds to whole pixels after each of the two directions.
    assert (seen - colours(teacher, image)).abs().max() <= 1.2 * level


@pytest.mark.parametrize("student", [bgr, offset])
def test_the_student_reads_a_larger_canvas_as_its_processor_would(student):
    """A teacher with larger images must not change what the student is trained on, but for the one resize."""
    image = noise(40, 40)
    both = shared_images(student(24), vit(40))
    assert both.canvas_size == (40, 40)
    seen = both.student(both.canvas(pixels_of(image)))
    level = max(max(row) for row in both.student_preprocessing.matrix)
    assert (seen - colours(student(24), image)).abs().max() <= 1.2 * level


def test_colours_that_mix_channels_are_followed():
    """A processor for another colour space has a full matrix, of which a diagonal would be the wrong half."""
    matrix = torch.tensor([[0.3, 0.6, 0.1], [-0.2, -0.3, 0.5], [0.5, -0.4, -0.1]])
    shift = torch.tensor([0.0, 1.0, 2.0])
    pixels = pixels_of(noise(8, 8))
    mapped = ColourMap(matrix, shift)(pixels)
    expected = torch.einsum("ij,njhw->nihw", matrix, pixels.float()) + shift[:, None, None]
    torch.testing.assert_close(mapped, expected, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(ColourMap(matrix, shift).inverse()(mapped), pixels.float(), atol=1e-3, rtol=0)


def test_an_augmentation_is_the_same_for_both_models():
    """A teacher that sees another flip or crop than the student gives targets for another image."""
    augmentation = Compose([RandomCrop(padding=4), RandomHorizontalFlip()])
    pixels = pixels_of(*(noise(24, 24, seed=seed) for seed in range(6)))
    both = shared_images(vit(), bgr())

    def augmented(images):
        return augmentation(images, Draws.of_batch(len(images), 3))

    seen = both.teacher(augmented(both.canvas(pixels)))
    torch.testing.assert_close(seen, augmented(both.teacher_only(pixels)), atol=1e-5, rtol=0)
    assert not torch.allclose(seen, both.teacher_only(pixels), atol=0.1)


def test_a_flip_before_and_after_the_resize_is_the_same():
    """The two views of a flipped image would otherwise be shifted against each other."""
    both = shared_images(vit(40), bgr(24))
    canvas = both.canvas(pixels_of(noise(40, 40)))
    torch.testing.assert_close(both.teacher(canvas.flip(-1)), both.teacher(canvas).flip(-1), atol=1e-5, rtol=0)


def test_the_canvas_has_the_larger_size():
    """The smaller one would be enlarged for the model that reads more, and details would be lost for nothing."""
    assert shared_images(vit(24), bgr(40)).canvas_size == (40, 40)
    assert shared_images(vit(40), bgr(24)).canvas_size == (40, 40)
    wide, tall = (ViTImageProcessorPil(size={"height": h, "width": w}) for h, w in ((12, 20), (20, 12)))
    assert shared_images(wide, tall).canvas_size == (12, 20)
    assert shared_images(tall, wide).canvas_size == (20, 12)


def test_what_fits_already_is_not_copied():
    """Images that the student's processor prepared need no work, and no second copy on the device."""
    both = shared_images(vit(), bgr())
    images = torch.rand(2, 3, 24, 24)
    assert both.canvas(images) is images
    assert both.student(images) is images
    assert both.teacher_only(images) is images
    alike = SharedImages(Preprocessing.measured(vit()))
    assert alike.teacher(images) is images


def test_grey_images_can_be_shared():
    """Digits are the demonstration; their processors have one mean."""
    both, image = shared_images(grey(40), grey(24, mean=0.7), channels=1), noise(40, 40, channels=1)
    canvas = both.canvas(pixels_of(image))
    torch.testing.assert_close(both.student(canvas), colours(grey(40), image), atol=1e-5, rtol=0)
    seen = both.teacher(canvas)
    assert seen.shape == (1, 1, 24, 24)
    assert (seen - colours(grey(24, mean=0.7), image)).abs().max() <= 1.2 / 255 / 0.2


def test_autocast_does_not_round_the_images():
    """Half precision has fewer digits than a pixel, and the rounded image would go to both models."""
    both = shared_images(bgr(40), vit(24, resample=BICUBIC))
    pixels = pixels_of(noise(40, 40))
    plain = both.teacher(both.canvas(pixels))
    with torch.autocast("cpu", torch.bfloat16):
        canvas = both.canvas(pixels)
        seen = both.teacher(canvas)
    assert canvas.dtype == seen.dtype == torch.float32
    torch.testing.assert_close(seen, plain, atol=0, rtol=0)


def test_images_follow_the_device_of_the_batch():
    """A constant that stays on the CPU ends the first step on a GPU."""
    both = shared_images(bgr(24), vit(40, resample=BICUBIC))
    pixels = pixels_of(noise(40, 40)).to("meta")
    canvas = both.canvas(pixels)
    assert both.student(canvas).device == both.teacher(canvas).device == pixels.device


def test_colours_first_used_in_inference_mode_can_be_trained_through():
    """An evaluation before training must not leave constants that no gradient may pass."""
    both = shared_images(bgr(24), vit(40, resample=BICUBIC))
    with torch.inference_mode():
        both.teacher(both.canvas(pixels_of(noise(40, 40))))
    images = torch.rand(1, 3, 24, 24, requires_grad=True)
    both.teacher(images).sum().backward()
    assert images.grad.abs().sum() > 0


def test_models_of_other_channels_are_refused():
    """A grey image has no colours for the teacher, and which grey a colour image becomes would be a guess."""
    with pytest.raises(ValueError, match=r"student reads images of 1 channels and the teacher of 3.*num_channels"):
        SharedImages(Preprocessing.measured(grey(), channels=1), Preprocessing.measured(vit()))


def test_a_batch_of_no_pixels_is_refused():
    """A stream that lost its type would be normalised twice or not at all."""
    both = shared_images(vit(), bgr())
    for take in (both.canvas, both.teacher_only):
        with pytest.raises(TypeError, match=r"images are of torch.int64; they must be uint8.*ImageTransform"):
            take(torch.zeros(2, 3, 24, 24, dtype=torch.int64))
        with pytest.raises(ValueError, match=r"shape \(2, 1, 24, 24\), and the models read \(N, 3, H, W\)"):
            take(torch.zeros(2, 1, 24, 24, dtype=torch.uint8))
        with pytest.raises(ValueError, match=r"shape \(3, 3, 24\)"):
            take(torch.zeros(3, 3, 24))


def test_an_enlarged_teacher_image_is_told():
    """The teacher's accuracy on blurred images is lower, and nobody would know why."""
    both = shared_images(vit(24), bgr(40))
    assert both.upsampling((40, 40)) is None
    assert both.upsampling((48, 40)) is None
    for size in ((24, 24), (40, 39), (39, 40)):
        assert f"40x40 pixels and gets them enlarged from {size[0]}x{size[1]}" in both.upsampling(size)


def test_the_reference_resize_is_not_trivial():
    """If noise did not go beyond white under a bicubic resize, the tests above could not see a missing limit."""
    resized = F.interpolate(pixels_of(noise(40, 40)).float(), size=(32, 32), mode="bicubic", antialias=True)
    assert resized.max() > 255 + 5
    assert resized.min() < -5
