"""What a dataset card has to say about the licence of an imported collection."""

from __future__ import annotations

_IMAGES = "Verify the licence of an image before you use it."

TERMS = {
    "voc2012": "PASCAL VOC 2012: the images were taken from flickr and fall under its terms of "
    "use; the annotations are of the University of Oxford and others. Cite Everingham et al.",
    "coco2014": "MS COCO: the annotations are licensed by the COCO Consortium under CC BY 4.0. "
    f"The images were taken from Flickr, under the licence that each was published with. {_IMAGES}",
    "nuswide": "NUS-WIDE: the annotations are of the National University of Singapore, for "
    f"research. The images were taken from Flickr, under its terms of use. {_IMAGES}",
    "cub2011": "CUB-200-2011: of Caltech, for non-commercial research and education. Caltech does "
    f"not own the copyright of the images. {_IMAGES}",
    "csv": "This collection was imported from a folder and a CSV, which say nothing about their "
    f"licence. {_IMAGES}",
}
"""By release of the label version that the tars carry."""
