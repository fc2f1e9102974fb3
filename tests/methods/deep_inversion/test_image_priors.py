"""What is known of images without a model."""

import pytest
import torch

from hf_abkd.methods.deep_inversion.image_priors import mean_norm, moved, total_variation


def variation_by_loops(images):
    """The sum over four directions of the norm of the differences, of each image; then the mean."""
    samples, channels, height, width = images.shape
    total = 0.0
    for n in range(samples):
        for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
            squares = 0.0
            for c in range(channels):
                for y in range(height):
                    for x in range(width):
                        if 0 <= y + down < height and 0 <= x + right < width:
                            squares = squares + (images[n, c, y + down, x + right] - images[n, c, y, x]) ** 2
            total = total + squares**0.5
    return total / samples


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 2, 4, 3, dtype=torch.float64, generator=generator, requires_grad=True)


def test_total_variation_and_its_gradient_are_those_of_the_formula(images):
    """A direction that is left out leaves stripes in the images."""
    expected, found = variation_by_loops(images), total_variation(images)
    (wanted,) = torch.autograd.grad(expected, [images])
    (gradient,) = torch.autograd.grad(found, [images])
    assert wanted.abs().min() > 0
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient, wanted)


def test_total_variation_does_not_depend_on_the_batch_size(images):
    """A norm over the whole batch would weigh an image of a batch of 256 sixteen times less than one alone."""
    repeated = images.repeat(8, 1, 1, 1)
    torch.testing.assert_close(total_variation(repeated), total_variation(images))
    torch.testing.assert_close(mean_norm(repeated), mean_norm(images))


def test_total_variation_of_one_colour_is_zero_with_finite_gradients():
    """The norm of zero has no gradient of its own."""
    plain = torch.ones(2, 3, 4, 4, requires_grad=True)
    total_variation(plain).backward()
    assert torch.isfinite(plain.grad).all()


def test_mean_norm_is_that_of_the_formula(images):
    """It is alpha_l2's term."""
    expected = sum(sum(v**2 for v in image.reshape(-1)) ** 0.5 for image in images) / 2
    torch.testing.assert_close(mean_norm(images), expected)


def test_moves_roll_by_up_to_the_jitter_and_mirror_half_of_the_time():
    """A shift that is always the same, or of one sign, gives images with a seam."""
    image = torch.arange(25.0).reshape(1, 1, 5, 5)
    generator = torch.Generator().manual_seed(0)
    seen = {}
    for _ in range(400):
        result = moved(image, 1, flip=True, generator=generator)
        for mirrored in (False, True):
            plain = result.flip(3) if mirrored else result
            for down in (-1, 0, 1):
                for right in (-1, 0, 1):
                    if torch.equal(plain, torch.roll(image, (down, right), (2, 3))):
                        seen[down, right, mirrored] = seen.get((down, right, mirrored), 0) + 1
    assert len(seen) == 18
    assert sum(seen.values()) == 400
    assert 150 < sum(count for key, count in seen.items() if key[2]) < 250


def test_without_jitter_and_flip_images_stay():
    """Settings of 0 are to mean nothing."""
    image = torch.randn(2, 3, 4, 4)
    assert torch.equal(moved(image, 0, flip=False, generator=torch.Generator()), image)
