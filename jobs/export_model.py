"""Write a checkpoint as safetensors, torch.export and ONNX.

The script of `openimages-boostlu export`, for `ray submit`.
"""

from pipeline.cli.main import run

if __name__ == "__main__":
    run("export")
