"""What the libraries beneath say of their own accord, and who uses a command did not ask for."""

from __future__ import annotations

import logging

# Who says it, and words of it: nothing is amiss where the images are prepared by Pillow.
_NOTICES = {
    "transformers.utils.import_utils": "requires torchvision",
    "transformers.models.auto.image_processing_auto": "backend is not available",
}


def quiet_libraries() -> None:
    """Hide progress bars of transformers and datasets, which stand between the lines of a report, and their notices.

    Warnings of theirs stay, such as the one of weights that a file does not have.
    """
    import datasets
    import transformers

    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    for name, words in _NOTICES.items():
        logger = logging.getLogger(name)
        if not any(isinstance(one, _Hides) for one in logger.filters):
            logger.addFilter(_Hides(words))


class _Hides(logging.Filter):
    """Hides what has these words in it."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self._words = words

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether a record is shown."""
        return self._words not in record.getMessage()
