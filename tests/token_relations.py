"""Relations between tokens as the papers on MiniLM define them, product by product."""

import math

import torch


def parts(width, *, seed=0, samples=2, tokens=3):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(samples, tokens, width, generator=generator, dtype=torch.float64) for _ in range(3)]


def relation(first, second, heads, sample, head):
    """The softmax of the scaled products of one head, product by product."""
    size = first.shape[2] // heads
    rows = []
    for one in range(first.shape[1]):
        scores = [
            sum(
                first[sample, one, head * size + place] * second[sample, other, head * size + place]
                for place in range(size)
            ).item()
            / math.sqrt(size)
            for other in range(second.shape[1])
        ]
        total = sum(math.exp(score) for score in scores)
        rows.append([math.exp(score) / total for score in scores])
    return rows


def by_hand(student, teacher, pairs, heads):
    """The divergences of the paper, one distribution after another."""
    value = 0.0
    for first, second in pairs:
        total, count = 0.0, 0
        for sample in range(student[0].shape[0]):
            for head in range(heads):
                ours = relation(student[first], student[second], heads, sample, head)
                theirs = relation(teacher[first], teacher[second], heads, sample, head)
                for row, target in zip(ours, theirs, strict=True):
                    total += sum(q * math.log(q / p) for p, q in zip(row, target, strict=True))
                    count += 1
        value += total / count
    return value
