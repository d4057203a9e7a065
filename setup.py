"Everything is said once, in settings.ini; this file hands it to setuptools, every field that pyproject.toml calls dynamic."
from configparser import ConfigParser
from pathlib import Path
import shlex
import setuptools

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here/"settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]

extras = ("app", "io", "gpu", "dev")
status = {"1": "Planning", "2": "Pre-Alpha", "3": "Alpha", "4": "Beta", "5": "Production/Stable"}[cfg["status"]]

def listed(key): return shlex.split(cfg.get(key, ""))

setuptools.setup(
    name=cfg["lib_name"], version=cfg["version"], description=cfg["description"], keywords=cfg["keywords"],
    author=cfg["author"], author_email=cfg["author_email"], license="Apache-2.0",
    url=cfg["git_url"], project_urls={"Documentation": cfg["doc_host"]+cfg["doc_baseurl"]},
    long_description=(here/"README.md").read_text(encoding="utf-8"), long_description_content_type="text/markdown",
    classifiers=[f"Development Status :: {cfg['status']} - {status}", f"Intended Audience :: {cfg['audience']}",
                 f"Natural Language :: {cfg['language']}", "Programming Language :: Python :: 3",
                 "Framework :: Jupyter", "Topic :: Scientific/Engineering :: Physics"],
    python_requires=f">={cfg['min_python']}",
    install_requires=listed("requirements"),
    extras_require={name: listed(f"{name}_requirements") for name in extras},
    packages=setuptools.find_packages(include=[cfg["lib_path"], f"{cfg['lib_path']}.*"]),
    package_data={cfg["lib_path"]: ["weights/**/*.safetensors", "weights/**/*.json", "weights/**/*.md",
                                    "examples/*.tif", "examples/*.png", "examples/*.json", "app/*.js", "app/*.css", "benchmark.json", "py.typed", "benchmark_readme.md"]},
    include_package_data=False, zip_safe=False,
    entry_points={"console_scripts": listed("console_scripts"), "nbdev": [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"]},
)
