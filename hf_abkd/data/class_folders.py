"""Class folders: the images of a folder with one folder per class, every file in it accounted for."""

from __future__ import annotations

import logging
import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Image

from hf_abkd.data.columns import Part
from hf_abkd.data.image_files import is_image
from hf_abkd.wording import counted, listed

logger = logging.getLogger(__name__)

# What systems put beside images; hidden files are passed over too.
_LITTER = frozenset({"thumbs.db", "desktop.ini", "__macosx", "__pycache__", "@eadir", "$recycle.bin"})
_LAYOUT = "expected one folder per class with the images in it: FOLDER/cat/1.png, FOLDER/dog/2.png"


@dataclass(frozen=True)
class Found:
    """What lies in a folder: folders, images, and other files; hidden ones are left out."""

    folders: list[Path]
    images: list[Path]
    others: list[Path]


def load_class_folders(flag: str, folder: str) -> Part:
    """Return the rows of a folder: an `image` column of paths and a `label` column, in the order of the paths.

    An image is told by its suffix, and a file with any other suffix, or none, by what it holds. Files that are no
    images are named in one warning. Links are followed.

    Args:
        flag: The flag that named the folder.
        folder: The folder.

    Raises:
        FileNotFoundError: If there is no such folder, or a link in it leads nowhere.
        ValueError: If images lie outside of class folders or deeper, a class has none, or a name cannot be stored.
    """
    origin, root = f"{flag} {folder}", Path(folder).expanduser().resolve()
    if not root.is_dir():
        raise FileNotFoundError(f"{origin}: no such folder")
    top = found_in(root, origin)
    _check_top(top, root, origin)
    # As most systems write names: macOS writes an accent behind its letter, and the same name would be another class.
    classes = [unicodedata.normalize("NFC", path.name) for path in top.folders]
    inside = [found_in(path, origin) for path in top.folders]
    _check_classes(inside, classes, root, origin)
    others = [path for found in (top, *inside) for path in found.others]
    if others:
        logger.warning(
            "%s: %s that %s no image, not read: %s. The class of an image is its folder",
            origin,
            counted(len(others), "file"),
            "is" if len(others) == 1 else "are",
            listed(_names(others, root)),
        )
    # In the order of the whole path, in which `datasets` reads a folder too: "cat-big/1.png" before "cat/1.png".
    rows = sorted((path.as_posix(), label) for label, found in enumerate(inside) for path in found.images)
    features = Features({"image": Image(), "label": ClassLabel(names=classes)})
    columns = {"image": [path for path, _ in rows], "label": [label for _, label in rows]}
    return Part(Dataset.from_dict(columns, features=features), origin)


def _check_top(top: Found, root: Path, origin: str) -> None:
    """Refuse a folder without class folders, or with images beside them."""
    if top.images:
        raise ValueError(
            f"{origin}: images outside a class folder ({listed(_names(top.images, root), quoted=True)}); {_LAYOUT}"
        )
    if not top.folders:
        raise ValueError(f"{origin}: no folder inside; {_LAYOUT}")


def _check_classes(inside: list[Found], classes: list[str], root: Path, origin: str) -> None:
    """Refuse class folders with folders in them, and those without an image."""
    deeper = [path for found in inside for path in found.folders]
    if deeper:
        parts = [name for name in ("train", "training") if name in classes] or (classes if len(classes) == 1 else [])
        hint = f"; did you mean {origin.rstrip('/')}/{parts[0]}?" if parts and not any(f.images for f in inside) else ""
        raise ValueError(
            f"{origin}: folders that are nested deeper: {listed(_names(deeper, root), quoted=True)}; {_LAYOUT}{hint}"
        )
    empty = [name for name, found in zip(classes, inside, strict=True) if not found.images]
    if empty:
        others = [path for found in inside for path in found.others if path.parent.name in empty]
        there = f" (there are {listed(_names(others, root))})" if others else ""
        raise ValueError(
            f"{origin}: class folders without an image: {listed(empty, quoted=True)}{there}. Remove them, or put "
            "images in"
        )
    unnamed = [path for found in inside for path in found.images if not _is_text(str(path))]
    if unnamed:
        raise ValueError(f"{origin}: names that are no UTF-8 text: {listed(unnamed, quoted=True)}; rename them")


def found_in(folder: Path, origin: str) -> Found:
    """Return what lies in a folder, in the order of the names."""
    found = Found([], [], [])
    # Entries know what they are: asking each file again takes minutes over a network.
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        if entry.name.startswith(".") or entry.name.lower() in _LITTER:
            continue
        if entry.is_file():
            (found.images if is_image(path) else found.others).append(path)
        elif entry.is_dir():
            found.folders.append(path)
        elif entry.is_symlink():
            raise FileNotFoundError(f"{origin}: the link {path} leads nowhere ({path.readlink()}); remove or mend it")
    return found


def _names(paths: list[Path], root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in paths]


def _is_text(name: str) -> bool:
    return name.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in name)
