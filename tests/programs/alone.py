"""A run that is started as one of several processes, and works alone."""

from tiny import arguments, resnet

from hf_abkd import DistillationTrainer

DistillationTrainer(resnet(4), arguments("alone", use_cpu=False))
