"""What is installed: every package, every data file, a command that works from anywhere."""

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def section(name):
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config[name]


def test_setup_cfg_lists_every_package():
    listed = set(section("options")["packages"].split())
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("ffsim/**/__init__.py")}
    assert listed == found | {"ffsim.topologies", "ffsim.workloads"}


def test_every_data_file_is_shipped():
    patterns = [pattern.strip(" ,") for pattern in section("options.package_data")["*"].split()]
    packages = {path.parent for path in ROOT.glob("ffsim/**/__init__.py")}
    for path in ROOT.glob("ffsim/**/*"):
        if path.is_dir() or path.suffix == ".py" or "__pycache__" in path.parts:
            continue
        package = next(parent for parent in path.parents if parent in packages)
        relative = str(path.relative_to(package))
        assert any(fnmatch(relative, pattern) and relative.count("/") == pattern.count("/") for pattern in patterns), (
            relative
        )


@pytest.mark.slow
def test_a_wheel_runs_the_main_job_from_another_folder(tmp_path):
    source = tmp_path / "source"
    left_out = shutil.ignore_patterns(".*", "out", "build", "dist", "*.egg-info", "__pycache__", "tests", "docs")
    shutil.copytree(ROOT, source, ignore=left_out)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, source]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("ffsim-*.whl")
    installed, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    zipfile.ZipFile(wheel).extractall(installed)
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    names = [path.name for path in ROOT.glob("topologies/*.yaml")]
    assert sorted(path.name for path in (installed / "ffsim/topologies").iterdir()) == sorted(names)
    command = [sys.executable, "-P", "-m", "ffsim", "run", "h800-2048", "deepseek-v3-pretrain", "--report", "r.html"]
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "step time" in done.stdout
    where = subprocess.run(
        [sys.executable, "-P", "-c", "import ffsim; print(ffsim.__file__)"],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.startswith(str(installed))
