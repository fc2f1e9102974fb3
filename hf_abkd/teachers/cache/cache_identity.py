"""CacheIdentity: what the targets of a cached teacher depend on, as its manifest holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from hf_abkd.data.table.manifest import MANIFEST_NAME
from hf_abkd.data.table.target_table import TargetTable
from hf_abkd.layers.layout import Layout
from hf_abkd.layers.sites import Site
from hf_abkd.models.outputs import LOGITS
from hf_abkd.schema import Positive, checked

_REMEDY = "Get this file again, or write the cache again (`hf-abkd cache`)"


@dataclass(frozen=True)
class CachedLayer:
    """What a cache tells of a layer.

    Args:
        names: The names by which terms may call it.
        site: The activation whose boundary it is, without how it lies; None for another tensor.
        layout: How it lies.
    """

    names: tuple[str, ...]
    site: dict[str, Any] | None
    layout: Layout | None


@dataclass(frozen=True)
class CacheIdentity:
    """What the targets of a cached teacher depend on, of which runs read this.

    Args:
        teacher: The teacher: class, name and fingerprint.
        classes: How many classes it predicts.
        id2label: Their names, if it has any.
        precision: What it computed in.
        image_size: Height and width of the images that views are made of.
        channels: Of these images.
        backend: Which library resized them, if its processor told.
        augmentation: What the views were made by, in words.
        seed: The seed of the views.
        points: Where each tensor was read.
        layers: What is told of each layer, by the name of its column.
        reduced_decoding: Whether large JPEG files were decoded at smaller scales; older caches do not tell it.
    """

    teacher: dict[str, str | int]
    classes: Positive
    id2label: dict[str, str] | None
    precision: Literal["fp32", "bf16", "fp16"]
    image_size: tuple[Positive, Positive]
    channels: Positive
    backend: str | None
    augmentation: str
    seed: int
    points: dict[str, Any]
    layers: dict[str, CachedLayer]
    reduced_decoding: bool = False

    def __post_init__(self) -> None:
        """Check what types do not say."""
        if "fingerprint" not in self.teacher:
            raise ValueError("teacher.fingerprint is missing")
        if wrong := [index for index in self.id2label or {} if not index.isdecimal()]:
            raise ValueError(f"the keys of id2label should be whole numbers, got {wrong[0]!r}")


def read_identity(table: TargetTable) -> CacheIdentity:
    """Return the identity of a table that a cache consists of.

    Raises:
        ValueError: If the table is no cache of a teacher, or its manifest is damaged.
    """
    wanted = {each.name for each in fields(CacheIdentity) if each.default is MISSING}
    if lacking := sorted(wanted - set(table.identity)):
        raise ValueError(f"{table.folder} is a table, but no cache of a teacher: it lacks {lacking}")
    manifest = table.folder / MANIFEST_NAME
    identity = checked(table.identity, CacheIdentity, origin=manifest, remedy=_REMEDY)
    if lost := [name for name in table.columns if name != LOGITS and name not in identity.layers]:
        raise ValueError(f"{manifest} is damaged: of the columns {lost} it has no layers. {_REMEDY}")
    return identity


def site_of(layer: CachedLayer, folder: Path) -> Site | None:
    """Return the activation whose boundary a layer is; None of another tensor.

    Raises:
        ValueError: If the manifest is damaged.
    """
    if layer.site is None:
        return None
    layout = None if layer.layout is None else asdict(layer.layout)
    return checked({**layer.site, "layout": layout}, Site, origin=folder / MANIFEST_NAME, remedy=_REMEDY)


def layer_facts(names: list[str], site: Site | None, layout: Layout | None) -> Mapping[str, Any]:
    """Return what a cache tells of a layer as JSON holds it."""
    about = None if site is None else {key: value for key, value in asdict(site).items() if key != "layout"}
    return asdict(CachedLayer(tuple(names), about, layout))
