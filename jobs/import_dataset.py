"""Turn VOC, COCO, NUS-WIDE, CUB or an image,labels CSV into a dataset.

The script of `openimages-boostlu import`, for `ray submit`.
"""

from pipeline.cli.main import run

if __name__ == "__main__":
    run("import")
