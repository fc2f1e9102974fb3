"""Seeds: what the random numbers of a stage follow from."""

from __future__ import annotations

from transformers import TrainingArguments, enable_full_determinism, set_seed

from hf_abkd.data.draws import number_of


def seed_stage(args: TrainingArguments, index: int) -> None:
    """Seed all generators of this process for a stage: the first by the run's seed, the others by a hash of it.

    The sum of seed and index would give a stage the numbers of an earlier one of the run with the next seed.

    Args:
        args: The training arguments.
        index: Which stage.
    """
    seed = number_of("stage", args.seed, index) % 2**32 if index else args.seed
    if args.full_determinism:
        enable_full_determinism(seed)
    else:
        set_seed(seed)
