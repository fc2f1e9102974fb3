"""BibTeX entries of papers that several objectives or methods implement, for model cards."""

HEO_2019 = """@inproceedings{heo2019knowledge,
  title     = {Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons},
  author    = {Heo, Byeongho and Lee, Minsik and Yun, Sangdoo and Choi, Jin Young},
  booktitle = {Proceedings of the AAAI Conference on Artificial Intelligence},
  volume    = {33},
  pages     = {3779--3787},
  year      = {2019},
  url       = {https://arxiv.org/abs/1811.03233}
}"""
