"""Image processors of different sizes and colours, and noise to process."""

import numpy as np
import torch
from PIL import Image as PILImage
from transformers import EfficientNetImageProcessorPil, MobileViTImageProcessorPil, ViTImageProcessorPil

BICUBIC, BILINEAR, NEAREST, LANCZOS = 3, 2, 0, 1


def square(side):
    return {"height": side, "width": side}


def vit(side=24, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25), **settings):
    return ViTImageProcessorPil(size=square(side), image_mean=list(mean), image_std=list(std), **settings)


def bgr(side=24):
    return MobileViTImageProcessorPil(size=square(side), do_center_crop=False)


def offset(side=24):
    """The colours of EfficientNet: from -1 to 1, normalised, and divided by the deviation once more."""
    return EfficientNetImageProcessorPil(size=square(side), rescale_factor=1 / 127.5, rescale_offset=True)


def grey(side=24, mean=0.4):
    return ViTImageProcessorPil(size=square(side), image_mean=[mean], image_std=[0.2])


def noise(*size, channels=3, seed=0):
    """Pixels (H, W, C) of black and white and all between; a bicubic resize of them goes beyond both."""
    random = np.random.default_rng(seed)
    pixels = random.integers(-200, 456, (*size, channels)).clip(0, 255).astype(np.uint8)
    return PILImage.fromarray(pixels if channels == 3 else pixels[:, :, 0])


def pixels_of(*images):
    arrays = [np.array(image) for image in images]
    stacked = torch.from_numpy(np.stack([a[..., None] if a.ndim == 2 else a for a in arrays]))
    return stacked.permute(0, 3, 1, 2).contiguous()


def colours(processor, *images):
    return processor(list(images), return_tensors="pt")["pixel_values"]
