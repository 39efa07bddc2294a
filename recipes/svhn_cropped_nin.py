"""NIN on SVHN in the paper's setting: not measured here (paper: 2.35 %)."""

from dataclasses import dataclass

from zoo.training.families import papers


@dataclass(frozen=True)
class Recipe(papers.NetworkInNetwork):
    """Local contrast normalization.

    It trains on 73,257 images. The papers add the 531,131 images of the split "extra".
    """

    data: str = "svhn_cropped"
    variant: papers.Variant = "svhn"
    preprocessing: papers.Preprocessing = "gcn_lcn"
