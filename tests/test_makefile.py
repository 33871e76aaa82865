"""The Makefile in folders of every name, with environments that were moved, or whose Python is gone. By make itself.

The environments here are real ones without packages of their own: they see the tests' packages.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from copied import ROOT
from support.checkout import TINY, Checkout

NASTY = 'a b#c&d;e*[g](h)i,~@!+=^|<j> `k` "l\\m é?'
"""Signs that a shell, make, an address or a pattern reads in its own way."""

MADE = "import os, sys; print(os.getcwd(), *sys.version_info[:2])"


def make(folder: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    # What the make that runs these tests has exported is not the user's.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "UV_", "PIP_"))}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=folder, env={**kept, **environment}, capture_output=True, text=True, timeout=300)


def furnish(folder: Path) -> Path:
    """Give a checkout an environment that is as new as one just made."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        if not (folder / name).exists():
            shutil.copy2(ROOT / name, folder / name)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", ".venv"], cwd=folder, check=True)
    inside = Path(f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages")
    (folder / ".venv" / inside / "seen.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = folder / ".venv/bin/python"
    (folder / ".venv/bin/sar-search").write_text(f"#!{python}\nfrom pipeline.cli import main\nmain()\n")
    (folder / ".venv/bin/sar-search").chmod(0o755)
    made = subprocess.run([python, "-Ic", MADE], cwd=folder, check=True, capture_output=True).stdout
    (folder / ".venv/.ready").write_bytes(made)
    return folder


def mend(folder: Path) -> None:
    """Run what the Makefile's recipe runs on the scripts of an environment."""
    (folder / "mend.mk").write_text(
        'include Makefile\nmend: export MEND := $(MEND)\nmend:\n\t@$(BIN)/python -c "$$MEND"\n'
    )
    done = make(folder, "-f", "mend.mk", "mend")
    assert done.returncode == 0, done.stderr


@pytest.fixture
def nasty(tmp_path: Path) -> Path:
    (tmp_path / NASTY).mkdir()
    return tmp_path / NASTY


def test_environment_that_is_ready_is_left_alone(nasty: Path) -> None:
    done = make(furnish(nasty), "-n", "check")
    assert (done.stdout, done.stderr, done.returncode) == ("sar-search check\n", "", 0)
    assert make(nasty, "help").stdout.startswith("  make help ")


@pytest.mark.parametrize(
    ("typed", "run"),
    [
        ("repro", "sar-search repro"),
        ("ui", "sar-search ui --port 5000"),
        ("ui PORT=5001", "sar-search ui --port 5001"),
        ("dashboard", "sar-search dashboard --port 8080"),
        ("cluster-up", "sar-search cluster up onprem"),
        ("cluster-repro CLUSTER=my.yaml", "sar-search cluster repro my.yaml"),
        ("cluster-status CLUSTER=onprem", "sar-search cluster status onprem"),
        ("cluster-stop CLUSTER=onprem", "sar-search cluster stop onprem"),
        ("cluster-logs CLUSTER=onprem", "sar-search cluster logs onprem"),
        ("cluster-down CLUSTER=onprem", "sar-search cluster down onprem"),
        ("services-up WORKERS=2", "docker/services.sh up 2"),
        ("bench", "python benchmarks/run_all.py"),
    ],
)
def test_target_is_a_command(tmp_path: Path, typed: str, run: str) -> None:
    done = make(furnish(tmp_path), "-n", *typed.split())
    assert (done.stdout, done.stderr, done.returncode) == (f"{run}\n", "", 0)


def test_what_is_cleaned_can_be_made_again_and_searches_stay(tmp_path: Path) -> None:
    shutil.copy2(ROOT / "Makefile", tmp_path)
    made, stay = ("data", "models", "results", "pipeline/__pycache__"), ("state", "pipeline", "tests", "benchmarks")
    for name in (*made, *stay):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    assert make(tmp_path, "clean").returncode == 0
    assert [name for name in (*made, *stay) if (tmp_path / name).is_dir()] == [*stay]


def test_new_checkout_makes_an_environment(nasty: Path) -> None:
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy2(ROOT / name, nasty / name)
    said = make(nasty, "-n", "check").stdout
    assert (
        'echo "making .venv from requirements.lock: once, about 7 GB on disk and some minutes, in which nothing is '
        'printed"\n'
    ) in said
    assert '"python3" -m venv  .venv' in said
    assert "uv pip install --quiet --compile-bytecode" in said
    assert 'echo ".venv is ready."\nsar-search check\n' in said
    next_step = "Next: make repro, or source .venv/bin/activate and sar-search check"
    assert make(nasty, "-n", "environment").stdout.endswith(f'echo ".venv is ready. {next_step}"\n')


def test_installer_shows_its_progress_on_a_terminal(tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy2(ROOT / name, tmp_path / name)
    outside, inside = os.openpty()
    try:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        command = ["make", "-n", "environment"]
        done = subprocess.run(
            command, cwd=tmp_path, env=kept, stdout=subprocess.PIPE, stderr=inside, text=True, timeout=60
        )
    finally:
        os.close(inside)
        os.close(outside)
    assert "uv pip install  --compile-bytecode" in done.stdout
    assert "about 7 GB on disk and some minutes" in done.stdout
    assert "nothing is printed" not in done.stdout


def test_environment_that_was_moved_is_mended(tmp_path: Path, nasty: Path) -> None:
    (tmp_path / "first").mkdir()
    furnish(tmp_path / "first")
    nasty.rmdir()
    (tmp_path / "first").rename(nasty)
    said = make(nasty, "-n", "environment").stdout
    assert "mending it" in said
    assert ".venv/bin/python -m venv  .venv" in said  # with the Python that it has
    (nasty / "pipeline").mkdir()
    (nasty / "pipeline/__init__.py").touch()
    (nasty / "pipeline/cli.py").write_text("import sys\ndef main():\n    print(sys.executable, sys.argv[1:])\n")
    mend(nasty)
    run = [str(nasty / ".venv/bin/sar-search"), "a b", "$c"]
    done = subprocess.run(run, env={**os.environ, "PYTHONPATH": str(nasty)}, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"{nasty}/.venv/bin/python ['a b', '$c']\n", "")
    mend(nasty)  # what is right stays
    nasty.rename(tmp_path / "plain")
    mend(tmp_path / "plain")
    assert (tmp_path / "plain/.venv/bin/sar-search").read_text().splitlines()[
        0
    ] == f"#!{tmp_path}/plain/.venv/bin/python"


@pytest.mark.parametrize("gone", ["bin/python", "lib"])
def test_environment_of_a_python_that_is_gone_is_made_anew(tmp_path: Path, gone: str) -> None:
    furnish(tmp_path)
    if gone == "lib":  # as after an upgrade in place: its packages are those of another version
        shutil.rmtree(tmp_path / ".venv/lib")
    else:
        (tmp_path / ".venv/bin/python").unlink()
        (tmp_path / ".venv/bin/python").symlink_to("/nowhere/python3")
    said = make(tmp_path, "-n", "environment").stdout
    assert "making .venv from requirements.lock" in said
    assert '"python3" -m venv --clear .venv' in said


def test_lock_that_is_newer_is_installed_into_what_is_there(tmp_path: Path) -> None:
    furnish(tmp_path)
    os.utime(tmp_path / "requirements.lock", (4e9, 4e9))
    assert '"python3" -m venv  .venv' in make(tmp_path, "-n", "environment").stdout


@pytest.mark.parametrize(("name", "sign"), [("a:b", "colon"), ("a$b", "dollar sign")])
def test_what_no_environment_can_live_with_is_refused_in_a_sentence(tmp_path: Path, name: str, sign: str) -> None:
    (tmp_path / name).mkdir()
    shutil.copy2(ROOT / "Makefile", tmp_path / name / "Makefile")
    done = make(tmp_path / name, "check")
    assert done.returncode == 2
    assert f"{name}: a path with a {sign} cannot hold a Python environment. Rename the folder" in done.stderr


def test_nothing_in_the_environment_leads_the_installation_elsewhere(tmp_path: Path) -> None:
    furnish(tmp_path)
    lines = (
        'include Makefile\nshow:\n\t@env | grep -E "^(PIP|UV|PYTHON)" | sort\n$(READY):\n\t@env | grep "^PYTHONPATH"\n'
    )
    (tmp_path / "show.mk").write_text(lines)
    redirects = dict.fromkeys(("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PYTHONHOME", "UV_PYTHON"), "/elsewhere")
    given = {**redirects, "PIP_USER": "1", "PIP_REQUIRE_HASHES": "1", "UV_SYSTEM_PYTHON": "1", "HOME": "/nowhere"}
    kept = {"PIP_INDEX_URL": "https://index.invalid/simple", "UV_INDEX_URL": "https://index.invalid/simple"}
    shown = make(tmp_path, "-f", "show.mk", "show", **given, **kept, PYTHONPATH="/mine").stdout.splitlines()
    found = dict(line.split("=", 1) for line in shown)
    assert not set(redirects) & set(found)
    assert "UV_SYSTEM_PYTHON" not in found
    assert (found["PIP_USER"], found["PIP_REQUIRE_HASHES"], found["UV_NO_CACHE"]) == ("0", "0", "1")
    assert {name: found[name] for name in kept} == kept
    assert found["PYTHONPATH"] == "/mine"  # for the commands; where .venv is made, it is empty
    os.utime(tmp_path / "requirements.lock", (4e9, 4e9))
    assert make(tmp_path, "-f", "show.mk", "environment", PYTHONPATH="/mine").stdout == "PYTHONPATH=\n"


@pytest.mark.slow
def test_check_and_whole_run_in_a_folder_with_a_nasty_name(nasty: Path) -> None:
    checkout = Checkout(nasty, TINY)
    furnish(checkout.root)
    mend(nasty)
    done = make(nasty, "check", PYTHONPATH=str(nasty))
    assert done.returncode == 0, done.stderr
    assert f"state     {nasty}/state" in done.stdout
    done = checkout.search("repro")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert (nasty / "results/report").is_dir()
    assert checkout.search("results").returncode == 0
