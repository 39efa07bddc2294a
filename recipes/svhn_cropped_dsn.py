"""DSN on SVHN in the paper's setting: not measured here (paper: 1.92 %)."""

from dataclasses import dataclass

from zoo.training.families import papers


@dataclass(frozen=True)
class Recipe(papers.DeeplySupervisedNet):
    """Local contrast normalization.

    It trains on 73,257 images. The papers add the 531,131 images of the split "extra".
    All heads have softmax, as the released README says for SVHN.
    """

    data: str = "svhn_cropped"
    variant: papers.Variant = "svhn"
    preprocessing: papers.Preprocessing = "gcn_lcn"
    objective: papers.Objective = "softmax"
