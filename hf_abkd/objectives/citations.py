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

PARK_2019 = """@inproceedings{park2019relational,
  title     = {Relational Knowledge Distillation},
  author    = {Park, Wonpyo and Kim, Dongju and Lu, Yan and Cho, Minsu},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2019},
  url       = {https://arxiv.org/abs/1904.05068}
}"""

ZHANG_2020 = """@inproceedings{zhang2020prime,
  title     = {Prime-Aware Adaptive Distillation},
  author    = {Zhang, Youcai and Lan, Zhonghao and Dai, Yuchen and Zeng, Fangao and Bai, Yan and Chang, Jie and
               Wei, Yichen},
  booktitle = {European Conference on Computer Vision},
  year      = {2020},
  url       = {https://www.ecva.net/papers/eccv_2020/papers_ECCV/html/3317_ECCV_2020_paper.php}
}"""
