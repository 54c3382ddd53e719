"""Install lens_ros without ROS: `pip install .` gives the module lens_ros, the weights and `lens`.

Training runs from a checkout.

With ROS, colcon reads package.xml and CMakeLists.txt instead and ignores this file.
"""

from pathlib import Path

from setuptools import find_packages, setup

# Inside the package: lens_ros/models/lens-nano/... in site-packages. A checkout may lack the weights.
MODELS = {"lens_ros.models": "models"} if Path(__file__).with_name("models").is_dir() else {}



def requirements(use: str) -> list[str]:
    """Return the lines of requirements/USE.txt without comments."""
    lines = Path(__file__).with_name("requirements").joinpath(f"{use}.txt").read_text().splitlines()
    return [line for line in (line.split("#")[0].strip() for line in lines) if line]


setup(
    name="lens_ros",
    version="0.1.0",  # as in package.xml and lens_ros/__init__.py
    description="Segments what an instruction means in a camera image: reasons in words, answers with masks",
    license="Apache-2.0",
    author="lens_ros developers",
    author_email="lens-ros@example.org",
    python_requires=">=3.10",
    packages=[*find_packages(include=["lens_ros*"]), *MODELS],
    package_dir=MODELS,
    package_data={
        "lens_ros": ["engine/pictures/*"],
        "lens_ros.models": ["*/*"],
    },
    install_requires=[*requirements("base"), *requirements("robot")],
    extras_require={
        "engine": requirements("engines"),
        "simulation": requirements("simulation"),
        "training": [*requirements("simulation"), *requirements("training")],
        "test": requirements("tests"),
    },
    entry_points={"console_scripts": ["lens = lens_ros.cli:main"]},
)
