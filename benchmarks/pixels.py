"""How many images a second one core makes ready for a model: decoded, by a plain pipeline, and by this package.

    python benchmarks/pixels.py --json pixels.json

takes about 9 minutes on one CPU core. The images are JPEGs whose spectrum is that of photographs, of 500x375 pixels as
in ImageNet, 1600x1200 and 4000x3000 as of a telephone, brought to 224x224 pixels, in batches as a data loader asks for
them. All variants of a size take turns in one process.

- `decode`: Pillow decodes the images, and nothing else.
- `decode reduced`: the same at a half, a quarter or an eighth of the size, as `ImageTransform(reduced_decoding=True)`.
- `simplejpeg`, `simplejpeg reduced`: both by `simplejpeg`, to the same sizes, where it is installed.
- `plain`: `dataset.with_transform` of a function that calls the Hugging Face image processor, as its examples do.
- `ids`, `no ids`: `prepare(dataset, ImageTransform(processor))`, with and without the hash of each image by which views
  and cached targets are found.
- `reduced`: `ids` with `reduced_decoding=True`, and how far its colours lie from those of `ids`, of 255.
- `cache`: the same, with its pixels in a cache: uint8 as a batch is sent to the device, with ids, each image checked.
- `cache, colours`: the same, and the colours of the processor made of them, on the CPU here, where a run does so on its
  device.

Times are of the process (CPU time), as other programs on the machine do not count in them.
"""

import argparse
import importlib
import importlib.util
import io
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image, disable_progress_bars
from PIL import Image as PILImage
from step_time import machine
from transformers import ViTImageProcessorPil, default_data_collator
from transformers.utils import logging as transformers_logging

from hf_abkd.data.pixel_cache.stored_colours import stored_colours
from hf_abkd.data.pixel_cache.writing import write_pixels
from hf_abkd.data.reduced_decoding import decoded_jpeg
from hf_abkd.data.transform import ImageTransform, prepare


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    sizes = [(500, 375), (1600, 1200), (4000, 3000)]
    parser.add_argument("--sizes", type=size, nargs="+", default=sizes, metavar="WIDTHxHEIGHT", help="of the images")
    parser.add_argument("--megapixels", type=float, default=48, help="of all images of a size together (default: 48)")
    parser.add_argument("--quality", type=int, default=90, help="of the JPEGs (default: 90)")
    parser.add_argument("--side", type=int, default=224, help="pixels of the model's images (default: 224)")
    parser.add_argument("--batch", type=int, default=64, help="images of a batch (default: 64)")
    parser.add_argument("--turns", type=int, default=7, help="how often each variant is timed (default: 7)")
    args = parser.parse_args(argv)
    if min(args.quality, args.side, args.batch, args.turns) < 1 or args.megapixels <= 0:
        parser.error("all numbers must be positive")
    transformers_logging.set_verbosity_error()
    disable_progress_bars()
    torch.set_num_threads(1)
    result = {
        "sizes": {f"{width}x{height}": measured(width, height, args) for width, height in args.sizes},
        "settings": {name: value for name, value in vars(args).items() if name != "json"},
        "machine": machine(),
    }
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def size(text):
    """Return a width and a height, written as 500x375."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"a size is WIDTHxHEIGHT, as 500x375, got {text!r}")
    return int(width), int(height)


def measured(width, height, args):
    """Return how many images of one size are made ready in a second, and print it."""
    encoded = photographs(max(1, int(args.megapixels * 1e6 / (width * height))), height, width, args.quality)
    with tempfile.TemporaryDirectory() as folder:
        timed = alternated(variants(encoded, args, folder), args.turns)
    rates = {name: [len(encoded) / seconds for seconds in times] for name, times in timed.items()}
    # Within a turn, so that what slows the machine down slows both.
    over_plain = {
        name: statistics.median(ours / plain for ours, plain in zip(rates[name], rates["plain"], strict=True))
        for name in rates
    }
    result = {
        "images": len(encoded),
        "jpeg_bytes": statistics.mean(map(len, encoded)),
        "images_per_second": {name: statistics.median(of_turns) for name, of_turns in rates.items()},
        "quartiles": {name: statistics.quantiles(r, n=4) if len(r) > 1 else r for name, r in rates.items()},
        "over_plain": over_plain,
        "reduced_differs": differences(encoded, args),
    }
    report(f"{width}x{height}", result)
    return result


def photographs(count, height, width, quality=90):
    """Return JPEGs of noise in which, as in photographs, amplitudes fall with the frequency."""
    generator = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    encoded = []
    for _ in range(count):
        noise = np.fft.rfft2(generator.standard_normal((3, height, width)))
        picture = np.fft.irfft2(noise / frequency, s=(height, width))
        picture = (picture - picture.mean()) / picture.std() * 50 + 128
        file = io.BytesIO()
        pixels = np.ascontiguousarray(picture.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))
        PILImage.fromarray(pixels).save(file, "JPEG", quality=quality)
        encoded.append(file.getvalue())
    return encoded


def variants(encoded, args, folder):
    """Return what is timed: functions that make all images ready, by name."""
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    rows = {
        "image": [{"bytes": data, "path": None} for data in encoded],
        "label": [number % 2 for number in range(len(encoded))],
    }
    dataset = Dataset.from_dict(rows, features=features)
    processor = processor_of(args)
    reduced = ImageTransform(processor, reduced_decoding=True)

    def plain(batch):
        images = [image.convert("RGB") for image in batch["image"]]
        return {**processor(images, return_tensors="pt"), "labels": batch["label"]}

    def reads(prepared, colours=None):
        loader = torch.utils.data.DataLoader(prepared, batch_size=args.batch, collate_fn=default_data_collator)

        def read():
            for batch in loader:
                images = batch["pixel_values"] if colours is None else colours(batch["pixel_values"])
                assert images.shape[1:] == (3, args.side, args.side)

        return read

    def ready(transform):
        prepared = prepare(dataset, transform)
        # Past the images after which it does without the processor, as in a run.
        small = {"image": [PILImage.new("RGB", (2 * args.side, 2 * args.side))] * 64, "label": [0] * 64}
        prepared.format["format_kwargs"]["transform"](small)
        return prepared

    prepared = ready(ImageTransform(processor))
    cached = write_pixels(Path(folder) / "pixels", prepared).attach(prepared)
    colours = stored_colours(cached)
    return {
        "decode": each(encoded, lambda data: PILImage.open(io.BytesIO(data)).load()),
        "decode reduced": each(encoded, lambda data: decoded_jpeg(data, reduced.least_side, None)),
        **fast_decoders(encoded, reduced),
        "plain": reads(dataset.with_transform(plain)),
        "ids": reads(prepared),
        "no ids": reads(ready(ImageTransform(processor, sample_ids=False))),
        "reduced": reads(ready(reduced)),
        "cache": reads(cached),
        "cache, colours": reads(cached, colours),
    }


def processor_of(args):
    return ViTImageProcessorPil(size={"height": args.side, "width": args.side})


def fast_decoders(encoded, reduced):
    """Return what decodes all images by another library, in full and to the sizes of a transform, if it is there."""
    if importlib.util.find_spec("simplejpeg") is None:
        return {}
    decode = importlib.import_module("simplejpeg").decode_jpeg
    width, height = decoded_jpeg(encoded[0], reduced.least_side, None).size
    # Copied once into an image of Pillow's, which processors resize.
    return {
        "simplejpeg": each(encoded, lambda data: PILImage.fromarray(decode(data))),
        "simplejpeg reduced": each(
            encoded, lambda data: PILImage.fromarray(decode(data, min_width=width, min_height=height))
        ),
    }


def each(encoded, function):
    """Return what does something with each image, and keeps none: their memory would have to be found anew."""

    def all_of_them():
        for data in encoded:
            function(data)

    return all_of_them


def differences(encoded, args):
    """Return how far the colours of reduced decoding lie from the others, of 255: in the mean, and at most."""
    full, reduced = (ImageTransform(processor_of(args), reduced_decoding=one).as_pixels() for one in (False, True))
    distances = []
    for data in encoded:
        stored = {"image": [{"bytes": data, "path": None}]}
        distances.append((full(stored)["pixel_values"].int() - reduced(stored)["pixel_values"].int()).abs())
    return {"mean": torch.cat(distances).float().mean().item(), "largest": torch.cat(distances).max().item()}


def alternated(functions, turns):
    """Return the CPU seconds of each function, turn by turn, after one call that is not timed."""
    timed = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(turns):
        for name, function in functions.items():
            start = time.process_time()
            function()
            timed[name].append(time.process_time() - start)
    return timed


def report(name, result):
    differs = result["reduced_differs"]
    print(f"{name}: {result['images']} images of {result['jpeg_bytes'] / 1e3:,.0f} kB")
    print(f"reduced differs by {differs['mean']:.2f} of 255 in the mean and {differs['largest']} at most")
    print(f"{'variant':18} {'images/s':>10} {'quartiles':>17} {'x plain':>8}")
    for name, rate in result["images_per_second"].items():
        low, high = result["quartiles"][name][0], result["quartiles"][name][-1]
        print(
            f"{name:18} {rate:10,.1f} {f'{low:,.1f} - {high:,.1f}':>17} {result['over_plain'][name]:8.2f}", flush=True
        )


if __name__ == "__main__":
    raise SystemExit(main())
