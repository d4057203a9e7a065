"Everything is said once, in settings.ini; this file hands it to setuptools, every field that pyproject.toml calls dynamic."
from configparser import ConfigParser
from pathlib import Path
import re, shlex
import setuptools

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here/"settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]
library = cfg["lib_path"]

STAGES = {"1": "Planning", "2": "Pre-Alpha", "3": "Alpha", "4": "Beta", "5": "Production/Stable"}
PACKAGE_DATA = ["weights/**/*.safetensors", "weights/**/*.json", "weights/**/*.md", "examples/*.tif", "examples/*.png",
                "examples/*.json", "app/*.js", "app/*.css", "benchmark.json", "benchmark_readme.md", "py.typed"]

def listed(key): return shlex.split(cfg.get(key, ""))

def extras():
    "NAME_requirements of settings.ini are the extra NAME."
    end = "_requirements"
    return {key.removesuffix(end): listed(key) for key in cfg if key.endswith(end)}

def classifiers():
    "Those of Python and of the system are what the tests run on."
    return [f"Development Status :: {cfg['status']} - {STAGES[cfg['status']]}",
            f"Intended Audience :: {cfg['audience']}", f"Natural Language :: {cfg['language']}",
            *(f"Operating System :: {name.replace('::', ' :: ')}" for name in listed("systems")),
            "Programming Language :: Python :: 3", "Programming Language :: Python :: 3 :: Only",
            *(f"Programming Language :: Python :: {version}" for version in listed("pythons")),
            "Framework :: Jupyter", "Topic :: Scientific/Engineering :: Physics",
            "Topic :: Scientific/Engineering :: Image Processing", "Typing :: Typed"]

def description():
    "README.md for the package index, where a path of the repository is no address."
    text = (here/"README.md").read_text(encoding="utf-8")
    text = re.sub(r"\]\((?!\w+:|#)([^)]+\.png)\)", rf"]({cfg['git_url']}/raw/{cfg['branch']}/\1)", text)
    return re.sub(r"\]\((?!\w+:|#)([^)]+)\)", rf"]({cfg['git_url']}/blob/{cfg['branch']}/\1)", text)

setuptools.setup(
    name=cfg["lib_name"], version=cfg["version"], description=cfg["description"],
    keywords=cfg["keywords"].split(), author=cfg["author"], author_email=cfg["author_email"],
    license=cfg["spdx"], license_files=["LICENSE"], classifiers=classifiers(),
    url=cfg["git_url"],
    project_urls={"Documentation": cfg["doc_host"] + cfg["doc_baseurl"], "Issues": f"{cfg['git_url']}/issues",
                  "Changes": f"{cfg['git_url']}/blob/{cfg['branch']}/CHANGELOG.md"},
    long_description=description(), long_description_content_type="text/markdown",
    python_requires=f">={cfg['min_python']}", install_requires=listed("requirements"), extras_require=extras(),
    packages=setuptools.find_packages(include=[library, f"{library}.*"]), package_data={library: PACKAGE_DATA},
    include_package_data=False, zip_safe=False,
    entry_points={"console_scripts": listed("console_scripts"), "nbdev": [f"{library}={library}._modidx:d"]})
