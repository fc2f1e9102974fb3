"""One size: what a processor makes of images, refused as soon as two of them come out in different sizes."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image as PILImage
from torch import Tensor
from transformers import BaseImageProcessor

from hf_abkd.data.decoding import SampleError
from hf_abkd.data.direct_images import DirectImages
from hf_abkd.models.expected_images import PIXELS
from hf_abkd.wording import by

# After so many images it has paid to find out whether a processor can be done without.
_FIRST_IMAGES = 64


class OneSize:
    """Runs a processor on batches of images, which all come out in the size of the first.

    Without a fixed size a batch of one image trains, and layers that were paired on the grid of the first image are
    compared on the grids of others.

    Args:
        processor: The image processor.
    """

    def __init__(self, processor: BaseImageProcessor) -> None:
        self.processor = processor
        # Width and height of the first image, before and after the processor.
        self._first: tuple[tuple[int, int], tuple[int, int]] | None = None
        # How many images were processed, and what processes them by then.
        self._count = 0
        self._direct: DirectImages | None = None

    def __call__(self, images: Sequence[PILImage.Image]) -> Tensor:
        """Return processed images, (N, C, H, W).

        Raises:
            SampleError: If they have another size than each other, or than images before.
        """
        try:
            pixels = self._processed(images)
        except ValueError:
            # Processors tell in several ways, none of them readable, that images cannot be stacked.
            for image in images:
                self._check(image, self._processed([image]))
            raise
        self._check(images[0], pixels)
        return pixels

    def _processed(self, images: Sequence[PILImage.Image]) -> Tensor:
        before, self._count = self._count, self._count + len(images)
        if before < _FIRST_IMAGES <= self._count:
            self._direct = DirectImages.measured(self.processor, len(images[0].getbands()))
        if self._direct is not None:
            return self._direct(images)
        pixels: Tensor = self.processor(images, return_tensors="pt")[PIXELS]
        return pixels

    def _check(self, image: PILImage.Image, pixels: Tensor) -> None:
        size = (pixels.shape[-1], pixels.shape[-2])
        if self._first is None:
            self._first = (image.size, size)
        before, after = self._first
        if size != after:
            raise SampleError(
                f"an image {by(image.size)} (width x height) becomes {by(size)}, and one {by(before)} became "
                f"{by(after)}: {type(self.processor).__name__} gives no fixed size, which batches and pairs of layers "
                "need. Set do_resize=True with size={'height': ..., 'width': ...}, or do_center_crop=True with "
                "crop_size={'height': ..., 'width': ...}"
            )
