"""Find img2dataset and run it behind the guard, in a process of its own.

img2dataset needs old versions of packages and no Python later than 3.12, so it may live in an environment of its own.
It ends with 0 after failed shards and on Ctrl-C; what it really did is seen from the files it left.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.progress import Progress
from roclip_audit.core.run import write_json
from roclip_audit.sanitize.fetch.settings import FetchConfig

DRIVER: Final = Path(__file__).with_name("driver.py")
POLL_S: Final = 0.25
GRACE_S: Final = 5.0
MISSING: Final = (
    "fetch needs img2dataset, which is not installed (it runs on Python 3.12 at most). Type\n"
    "  pip install 'roclip-audit[fetch]'\n"
    "or keep its old dependencies out of this environment, and fetch finds it on the PATH:\n"
    "  uv tool install --python 3.11 img2dataset\n"
    "or anywhere else:\n"
    "  python3.11 -m venv img2dataset-env\n"
    "  img2dataset-env/bin/pip install img2dataset\n"
    "  roclip-audit fetch URLS OUT --img2dataset img2dataset-env/bin/img2dataset"
)
_PASSED_ON: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "LD_LIBRARY_PATH")


@dataclass(frozen=True, slots=True)
class Ended:
    """How the process ended: its exit code, and the last lines it wrote."""

    code: int
    last_lines: str


def find_interpreter(given: Path | None) -> Path:
    """Find the Python that has img2dataset.

    Args:
        given: an interpreter, or the ``img2dataset`` program of an environment; None to look in this environment and
            then on the PATH.

    Raises:
        ConfigError: there is none, or what was given is neither; the message says what to type.
    """
    if given is not None:
        return _interpreter_of(given)
    if importlib.util.find_spec("img2dataset") is not None:
        return Path(sys.executable)
    program = shutil.which("img2dataset")
    if program is None:
        raise ConfigError(MISSING)
    return _interpreter_of(Path(program))


def _interpreter_of(program: Path) -> Path:
    """Return an interpreter itself, or the one that a program's first line names."""
    try:
        with program.open("rb") as opened:
            first = opened.readline(4096)
            second = opened.readline(4096)
    except OSError as error:
        raise ConfigError(f"--img2dataset {program}: cannot be read ({error.strerror})") from error
    if not first.startswith(b"#!"):
        if "python" in program.name:
            return program.absolute()  # not resolved: the link lies in the environment
        raise ConfigError(f"--img2dataset {program}: neither a Python interpreter nor the program img2dataset")
    line = first[2:].decode("utf-8", "replace").strip()
    if line == "/bin/sh":  # the form for long paths: '''exec' "/path/python" "$0" "$@"
        line = second.decode("utf-8", "replace").removeprefix("'''exec'").strip().removesuffix('"$0" "$@"')
    interpreter = Path(line.strip().strip('"'))
    if not interpreter.exists():
        raise ConfigError(f"--img2dataset {program}: its interpreter {line!r} does not exist")
    return interpreter


def check_interpreter(interpreter: Path) -> str:
    """Return the version of img2dataset that an interpreter has.

    Raises:
        ConfigError: it has none, or cannot be run.
    """
    ask = "import importlib.metadata as m; print(m.version('img2dataset'))"
    try:
        answer = subprocess.run(
            [interpreter, "-c", ask], capture_output=True, text=True, timeout=60, env=_environment(), check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{interpreter}: cannot be run ({error})") from error
    if answer.returncode:
        raise ConfigError(f"{interpreter}: has no img2dataset.\n{MISSING}")
    return answer.stdout.strip()


def _environment(max_pixels: int = 0) -> dict[str, str]:
    """Return what the process sees of the environment: no proxies, no tokens, no telemetry."""
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return kept | {
        "NO_ALBUMENTATIONS_UPDATE": "1",
        "WANDB_MODE": "disabled",
        "WANDB_DISABLED": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        **({"OPENCV_IO_MAX_IMAGE_PIXELS": str(max_pixels)} if max_pixels else {}),
    }


def settings_of(config: FetchConfig, folder: Path, columns: list[str]) -> dict[str, object]:
    """Return what ``driver.py`` reads: img2dataset's arguments, the guard's limits, and where to count.

    Args:
        config: what was chosen.
        folder: ``OUT/fetch``, with the prepared list.
        columns: additional columns of the list that are kept.
    """
    return {
        "verify": not config.keep_mismatches,
        "progress": str(folder / "progress"),
        "limits": config.limits._asdict(),
        "img2dataset": {
            "url_list": str(folder / "list"),
            "input_format": "parquet",
            "url_col": "url",
            "caption_col": "caption",
            "save_additional_columns": columns,
            "output_folder": str(config.out.absolute()),
            "output_format": "webdataset",
            "number_sample_per_shard": config.pairs_per_shard,
            "image_size": config.image_size,
            "resize_mode": "keep_ratio_largest",
            "resize_only_if_bigger": True,
            "encode_format": "jpg",
            "encode_quality": 95,
            "disable_all_reencoding": config.keep_bytes,
            "max_image_area": config.max_pixels,
            "compute_hash": "sha256",
            "processes_count": config.processes,
            "thread_count": config.threads,
            "timeout": config.limits.timeout_s,
            "retries": config.retries,
            "user_agent_token": config.limits.user_agent_token,
            "enable_wandb": False,
            "max_shard_retry": 1,
        },
    }


def run(interpreter: Path, config: FetchConfig, folder: Path, columns: list[str], progress: Progress) -> Ended:
    """Run img2dataset on the prepared list until it ends. Its words go to ``log.txt`` in ``folder``.

    Raises:
        KeyboardInterrupt: the user stopped it; the process and its workers are gone.
    """
    settings, log = folder / "driver.json", folder / "log.txt"
    write_json(settings, settings_of(config, folder, columns))
    (folder / "progress").write_bytes(b"")
    with log.open("wb") as words, _process(interpreter, settings, words, config.max_pixels) as process:
        seen = 0
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=POLL_S)
            seen = _count(folder / "progress", seen, progress)
    (folder / "progress").unlink(missing_ok=True)
    settings.unlink(missing_ok=True)
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-8:]
    return Ended(process.returncode, "\n".join(lines))


@contextmanager
def _process(interpreter: Path, settings: Path, words: BinaryIO, max_pixels: int) -> Iterator[subprocess.Popen[bytes]]:
    """Start the driver in a session of its own, so that Ctrl-C reaches us alone, and end it with us."""
    process = subprocess.Popen(
        [interpreter, DRIVER, settings],
        stdin=subprocess.PIPE,
        stdout=words,
        stderr=subprocess.STDOUT,
        env=_environment(max_pixels),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and all its workers; also where it ended by itself and left some behind."""
    with suppress(ProcessLookupError):  # nobody is left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=GRACE_S)
    if process.stdin is not None:
        process.stdin.close()


def _count(path: Path, seen: int, progress: Progress) -> int:
    """Report what was downloaded since ``seen``: one byte a URL, ``+`` or ``-``."""
    with path.open("rb") as opened:
        opened.seek(seen)
        news = opened.read()
    if news:
        progress.advance(len(news), n_errors=news.count(b"-"))
    return seen + len(news)
