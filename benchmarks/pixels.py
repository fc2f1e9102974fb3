"""How many images a second one core makes ready for a model: decoded, by a plain pipeline, and by this package.

    python benchmarks/pixels.py --json pixels.json

takes about 2 minutes on one CPU core. The images are JPEGs of 500x375 pixels whose spectrum is that of photographs,
brought to 224x224 pixels, in batches as a data loader asks for them. All variants take turns in one process.

- `decode`: Pillow decodes the images, and nothing else.
- `plain`: `dataset.with_transform` of a function that calls the Hugging Face image processor, as its examples do.
- `ids`, `no ids`: `prepare(dataset, ImageTransform(processor))`, with and without the hash of each image by which views
  and cached targets are found.
- `cache`: the same, with its pixels in a cache: uint8 as a batch is sent to the device, with ids, each image checked.
- `cache, colours`: the same, and the colours of the processor made of them, on the CPU here, where a run does so on its
  device.

Times are of the process (CPU time), as other programs on the machine do not count in them.
"""

import argparse
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
from hf_abkd.data.transform import ImageTransform, prepare


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    parser.add_argument("--images", type=int, default=256, help="how many images (default: 256)")
    parser.add_argument("--height", type=int, default=375, help="their height (default: 375)")
    parser.add_argument("--width", type=int, default=500, help="their width (default: 500)")
    parser.add_argument("--side", type=int, default=224, help="pixels of the model's images (default: 224)")
    parser.add_argument("--batch", type=int, default=64, help="images of a batch (default: 64)")
    parser.add_argument("--turns", type=int, default=7, help="how often each variant is timed (default: 7)")
    args = parser.parse_args(argv)
    if min(args.images, args.height, args.width, args.side, args.batch, args.turns) < 1:
        parser.error("all numbers must be positive")
    transformers_logging.set_verbosity_error()
    disable_progress_bars()
    torch.set_num_threads(1)
    encoded = photographs(args.images, args.height, args.width)
    with tempfile.TemporaryDirectory() as folder:
        timed = alternated(variants(encoded, args, folder), args.turns)
    rates = {name: [args.images / seconds for seconds in times] for name, times in timed.items()}
    # Within a turn, so that what slows the machine down slows both.
    over_plain = {
        name: statistics.median(ours / plain for ours, plain in zip(rates[name], rates["plain"], strict=True))
        for name in rates
    }
    result = {
        "images_per_second": {name: statistics.median(of_turns) for name, of_turns in rates.items()},
        "quartiles": {name: statistics.quantiles(r, n=4) if len(r) > 1 else r for name, r in rates.items()},
        "over_plain": over_plain,
        "jpeg_bytes": statistics.mean(map(len, encoded)),
        "settings": {name: value for name, value in vars(args).items() if name != "json"},
        "machine": machine(),
    }
    report(result)
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def photographs(count, height, width):
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
        PILImage.fromarray(pixels).save(file, "JPEG", quality=90)
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
    processor = ViTImageProcessorPil(size={"height": args.side, "width": args.side})

    def plain(batch):
        images = [image.convert("RGB") for image in batch["image"]]
        return {**processor(images, return_tensors="pt"), "labels": batch["label"]}

    def decode():
        for data in encoded:
            PILImage.open(io.BytesIO(data)).load()

    def reads(prepared, colours=None):
        loader = torch.utils.data.DataLoader(prepared, batch_size=args.batch, collate_fn=default_data_collator)

        def read():
            for batch in loader:
                images = batch["pixel_values"] if colours is None else colours(batch["pixel_values"])
                assert images.shape[1:] == (3, args.side, args.side)

        return read

    prepared = prepare(dataset, ImageTransform(processor))
    cached = write_pixels(Path(folder) / "pixels", prepared).attach(prepared)
    colours = stored_colours(cached)
    return {
        "decode": decode,
        "plain": reads(dataset.with_transform(plain)),
        "ids": reads(prepared),
        "no ids": reads(prepare(dataset, ImageTransform(processor, sample_ids=False))),
        "cache": reads(cached),
        "cache, colours": reads(cached, colours),
    }


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


def report(result):
    print(f"{'variant':14} {'images/s':>10} {'quartiles':>17} {'x plain':>8}")
    for name, rate in result["images_per_second"].items():
        low, high = result["quartiles"][name][0], result["quartiles"][name][-1]
        print(f"{name:14} {rate:10,.0f} {f'{low:,.0f} - {high:,.0f}':>17} {result['over_plain'][name]:8.2f}")


if __name__ == "__main__":
    raise SystemExit(main())
