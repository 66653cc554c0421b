"""The wheel, as a user gets it: built from the tree, installed with plain pip, in an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent


def run(*command: str | Path, cwd: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return it; a failure shows what it printed."""
    done = subprocess.run(
        command, cwd=cwd, env=dict(env), capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def install_environment(original_environment: Mapping[str, str]) -> dict[str, str]:
    """The environment that the package index is reached from, less what points into this environment."""
    hidden = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "COVERAGE_PROCESS_START"}
    return {name: value for name, value in original_environment.items() if name not in hidden}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, install_environment: dict[str, str]) -> Path:
    """The wheel, built from this tree by its own build backend."""
    folder = tmp_path_factory.mktemp("wheel")
    uv = Path(sys.executable).with_name("uv")
    build = (uv, "build", "--quiet", "--wheel", "--no-build-isolation", "--python", sys.executable)
    run(*build, "--out-dir", folder, PROJECT, cwd=folder, env=install_environment)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(
    wheel: Path, tmp_path_factory: pytest.TempPathFactory, install_environment: dict[str, str]
) -> Path:
    """The bin folder of an empty venv into which plain pip installed the wheel and what it asks for."""
    venv = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", venv, cwd=venv, env=install_environment)
    pip = (venv / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, wheel, cwd=venv, env=install_environment)
    return venv / "bin"


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    """The wheel carries the type marker and the licence, and only files of chandlery."""
    names = zipfile.ZipFile(wheel).namelist()

    assert {"chandlery/py.typed", "chandlery/__init__.py", "chandlery/cli/main.py"} <= set(names)
    assert "chandlery/sources/profiles/kraken.toml" in names
    assert [name for name in names if name.endswith("licenses/LICENSE")]
    assert {name.split("/")[0] for name in names} == {
        "chandlery",
        f"chandlery-{version('chandlery')}.dist-info",
    }


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_installed_wheel_does_the_main_job(installed: Path, tmp_path: Path) -> None:
    """From a plain pip install, `--version`, `--help` and `demo` work in an empty folder; demo leaves a chart."""
    env = {**os.environ, "PATH": f"{installed}{os.pathsep}{os.environ['PATH']}"}

    assert version("chandlery") in run("chandlery", "--version", cwd=tmp_path, env=env).stdout
    assert "fetch" in run("chandlery", "--help", cwd=tmp_path, env=env).stdout
    assert run("python", "-m", "chandlery", "--version", cwd=tmp_path, env=env).stdout
    run("chandlery", "demo", cwd=tmp_path, env=env)
    charts = list(tmp_path.rglob("*.png"))
    assert charts
    assert all(chart.read_bytes().startswith(b"\x89PNG") for chart in charts)
