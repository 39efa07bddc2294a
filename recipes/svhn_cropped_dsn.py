"""DSN on SVHN in the paper's setting: not measured here (paper: 1.92 %)."""

from dataclasses import dataclass

from zoo.training.families import papers


@dataclass(frozen=True)
class Recipe(papers.DeeplySupervisedNet):
    """Local contrast normalization.

    On the 73,257 training images: the papers add the 531,131 of the split "extra".
    Softmax on all heads, as the released README says for SVHN.
    """

    data: str = "svhn_cropped"
    variant: papers.Variant = "svhn"
    preprocessing: papers.Preprocessing = "gcn_lcn"
    objective: papers.Objective = "softmax"
