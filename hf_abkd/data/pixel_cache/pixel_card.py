"""The card of a pixel cache: what it holds and how to read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import DatasetCardData

from hf_abkd.data.table.table_card import columns_text


def pixel_card(
    columns: Sequence[tuple[str, str, str, int]], samples: int, views: int, shards: str, facts: Mapping[str, Any]
) -> str:
    """Write the card of a pixel cache; the arguments are those of `hf_abkd.data.table.table_card.table_card`."""
    data = DatasetCardData(
        tags=["hf_abkd"], configs=[{"config_name": "default", "data_files": [{"split": "train", "path": shards}]}]
    )
    parts = [
        "# Pixels of images",
        f"{samples:,} images as {facts['processor']} resized and cropped them, in the place of their files. Made with "
        "hf_abkd.",
        columns_text(columns),
        "`file` is a hash of the image's file, `sample_id` one of the decoded image, `pixels` one of what is stored.",
        "Train from it with `--pixel_cache` or `PixelCache.load(...).attach(prepared_images)`.",
    ]
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"
