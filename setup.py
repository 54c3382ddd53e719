"""lens_ros without ROS: `pip install .` gives the modules lens_ros and training, the weights and `lens`.

With ROS, colcon reads package.xml and CMakeLists.txt instead and ignores this file.
"""

from pathlib import Path

from setuptools import find_packages, setup

# Inside the package: lens_ros/models/lens-nano/... in site-packages. A checkout may lack the weights.
MODELS = {"lens_ros.models": "models"} if Path(__file__).with_name("models").is_dir() else {}

setup(
    name="lens_ros",
    version="0.1.0",  # as in package.xml and lens_ros/__init__.py
    description="Segments what an instruction means in a camera image: reasons in words, answers with masks",
    license="Apache-2.0",
    author="lens_ros developers",
    author_email="lens-ros@example.org",
    python_requires=">=3.10",
    packages=[*find_packages(include=["lens_ros*", "training*"]), *MODELS],
    package_dir=MODELS,
    package_data={
        "lens_ros": ["engine/pictures/*"],
        "lens_ros.models": ["*/*"],
        "training": ["configs/*.yaml"],
    },
    install_requires=[
        "numpy>=1.24",
        "opencv-python-headless>=4.8",
        "pillow>=10",
        "pyyaml>=6",
        "rosbags>=0.11",
        "safetensors>=0.5",
        "segment-anything>=1.0",
        "tokenizers>=0.22",
        "torch>=2.6",
        "tqdm>=4.66",
        "transformers>=5.20",
    ],
    extras_require={
        "engine": [
            "onnx>=1.17",
            "onnxruntime>=1.20",
            "onnxscript>=0.5",
            "tensorrt-rtx>=1.7; sys_platform == 'linux' and platform_machine == 'x86_64'",
            "torchao>=0.18",
        ],
        "simulation": ["mujoco>=3.3"],
        "training": [
            "accelerate>=1.10",
            "matplotlib>=3.8",
            "mujoco>=3.3",
            "peft>=0.18",
            "scipy>=1.11",
            "tensorboard>=2.18",
        ],
        "test": [
            "hypothesis>=6.100",
            "mypy>=1.10",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.17",
            "trl>=1.16; python_version >= '3.11'",
            "types-PyYAML",
            "types-tqdm",
        ],
    },
    entry_points={"console_scripts": ["lens = lens_ros.cli:main"]},
)
