"""The sweep behind ``roclip-audit bench``: a cell is one poisoned copy, scanned, given to the peers and measured.

::

    OUT/bench.json                  what was asked for, and on what machine
    OUT/cells/NAME/key.json         what the cell depends on; a cell with another key is done anew, unless of other data
                  /plan.json        what was planted
                  /planted/         shards/ (removed after measuring) and truth/
                  /run/             the scan; embeddings are removed after measuring
                  /scan.json        how long the scan took, if it was done in one go
                  /rows.parquet     the numbers; there when the cell is finished
    OUT/leaderboard.md, .parquet, .svg
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from roclip_audit.core.errors import ConfigError

if TYPE_CHECKING:
    from roclip_audit.audit.leaderboard.report import Leaderboard
    from roclip_audit.audit.leaderboard.rows import Row
    from roclip_audit.core.progress import Reporter
    from roclip_audit.core.shards import Shard
    from roclip_audit.sanitize.scan import ScanConfig
    from roclip_audit.train.attacks import AttackPlan

SETTINGS: Final = "bench.json"
MARKS: Final = "key.json"
REVISION: Final = 2
DEFAULT_RATE: Final = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchConfig:
    """What a sweep is made of.

    Attributes:
        shards: specifications of clean shards.
        out: folder of the sweep.
        data: what the data set is called in the tables.
        plan: attacks to plant; empty for all attacks, on words of the captions.
        rates: share of the pairs that each attack takes; empty for the plan's own rates.
        noise: share of plain mismatch in the default plan.
        seeds: of planting and scan.
        encoder: of the scan.
        detectors: columns of evidence and peers; empty for all.
        workers: threads.
        n_replicates: of the bootstrap.
        keep: whether poisoned copies and embeddings stay.
    """

    shards: tuple[str, ...]
    out: Path
    data: str
    plan: tuple[AttackPlan, ...] = ()
    rates: tuple[float, ...] = ()
    noise: float = 0.05
    seeds: tuple[int, ...] = (0,)
    encoder: str = "embedded"
    detectors: tuple[str, ...] = ()
    workers: int = 1
    n_replicates: int = 500
    keep: bool = False

    def peers(self) -> list[str]:
        """Return the peers that are run."""
        from roclip_audit.sanitize.peers import PEERS

        return [name for name in PEERS if not self.detectors or name in self.detectors]


@dataclass(frozen=True, slots=True, kw_only=True)
class CellPlan:
    """A cell before it is run; ``marks`` say what it depends on: ``key`` everything, ``data`` which data."""

    folder: Path
    rate: float
    seed: int
    attacks: tuple[AttackPlan, ...]
    marks: Mapping[str, str]

    @property
    def run(self) -> Path:
        """Run folder of the scan."""
        return self.folder / "run"

    @property
    def planted(self) -> Path:
        """Folder of the poisoned shards and the truth."""
        return self.folder / "planted"


def sweep(config: BenchConfig, reporter: Reporter) -> tuple[Leaderboard, list[Row]]:
    """Do what is missing of a sweep and write the leaderboard of all its cells, after every cell.

    Raises:
        ConfigError: nothing to plant, no such detector, or the folder holds something else.
        MissingExtraError: a peer needs a package that is not installed; nothing was done.
    """
    from roclip_audit.audit.leaderboard.rows import read_rows

    check(config)
    cells = list(plan_cells(config, reporter))
    refuse_other_data(cells)
    config.out.mkdir(parents=True, exist_ok=True)
    _write_settings(config)
    written = None
    for cell in cells:
        _make_folder(cell)
        if not (cell.folder / "rows.parquet").exists():
            run_cell(cell, config, reporter)
        rows = read_rows(sorted(config.out.glob("cells/*/rows.parquet")))
        written = _write(config, rows)
    if written is None:
        raise ConfigError("nothing to do: no rate or no seed")
    return written, rows


def check(config: BenchConfig) -> None:
    """Refuse what cannot work before any work is done."""
    from roclip_audit.audit.leaderboard.scores import OF_TWO_ENCODERS, OURS
    from roclip_audit.sanitize.peers import PEERS, build_peer
    from roclip_audit.train.attacks import build_attack

    if unknown := [name for name in config.detectors if name not in (*OURS, *PEERS)]:
        raise ConfigError(f"no detector {', '.join(unknown)}; there are {', '.join((*OURS, *PEERS))}")
    if "+" not in config.encoder and (idle := [name for name in config.detectors if name in OF_TWO_ENCODERS]):
        raise ConfigError(f"detector {', '.join(idle)} needs a second encoder: --encoder embedded+SPEC")
    for name in config.peers():
        build_peer(name).check()
    for plan in config.plan:
        build_attack(plan)
    if config.out.exists() and not config.out.is_dir():
        raise ConfigError(f"{config.out}: is a file; name a folder with --out")
    if config.out.exists() and any(config.out.iterdir()) and not (config.out / SETTINGS).exists():
        raise ConfigError(f"{config.out}: holds something else; name a new folder with --out")


def plan_cells(config: BenchConfig, reporter: Reporter) -> Iterator[CellPlan]:
    """Yield every cell; nothing is written."""
    from roclip_audit.core.run import work_key
    from roclip_audit.core.shards import expand_shards

    shards = expand_shards(config.shards)
    depends_on, data = _depends_on(config, shards), work_key([shard.path for shard in shards], config.encoder)
    for rate, seed, attacks in _plans(config, reporter):
        key = work_key("bench", REVISION, *depends_on, [asdict(plan) for plan in attacks], rate, seed)
        folder = config.out / "cells" / _cell_name(config, rate, seed)
        yield CellPlan(folder=folder, rate=rate, seed=seed, attacks=attacks, marks={"key": key, "data": data})


def refuse_other_data(cells: Sequence[CellPlan]) -> None:
    """Refuse to put one data set's work in the place of another's.

    Raises:
        ConfigError: a folder holds the work of other shards, or of another encoder, that goes by the same name.
    """
    for cell in cells:
        before = {**cell.marks, **_marks_of(cell.folder)}
        if before["key"] != cell.marks["key"] and before["data"] != cell.marks["data"]:
            raise ConfigError(
                f"{cell.folder}: holds the work of other shards, or of another encoder, of the same name; tell "
                "them apart with --name, or name another folder with --out"
            )


def _make_folder(cell: CellPlan) -> None:
    """Make a cell's folder; work of another plan in it is removed."""
    from roclip_audit.core.run import write_json

    if cell.folder.exists() and _marks_of(cell.folder).get("key") != cell.marks["key"]:
        shutil.rmtree(cell.folder)
    write_json(cell.folder / "plan.json", [asdict(plan) for plan in cell.attacks])
    write_json(cell.folder / MARKS, dict(cell.marks))


def _marks_of(folder: Path) -> dict[str, str]:
    """Return what a cell says it depends on; nothing if that cannot be read."""
    try:
        return dict(json.loads((folder / MARKS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _plans(config: BenchConfig, reporter: Reporter) -> Iterator[tuple[float, int, tuple[AttackPlan, ...]]]:
    from dataclasses import replace

    from roclip_audit.train.planting.bench_plan import NOISE, default_plan

    for seed in config.seeds:
        for rate in config.rates or (
            max((one.rate for one in config.plan if one.attack != NOISE), default=DEFAULT_RATE),
        ):
            if not config.plan:
                planned = default_plan(config.shards, rate=rate, noise=config.noise, seed=seed)
                for attack, why in planned.left_out.items():
                    reporter.note(f"rate {rate:g}, seed {seed}: {attack} left out: {why}")
                yield rate, seed, planned.attacks
            elif config.rates:
                yield rate, seed, tuple(p if p.attack == NOISE else replace(p, rate=rate) for p in config.plan)
            else:
                yield rate, seed, config.plan


def _depends_on(config: BenchConfig, shards: Sequence[Shard]) -> list[object]:
    """Return what the numbers of a cell depend on, besides its plan."""
    from roclip_audit.sanitize.scan import REVISIONS

    known = [(shard.name, shard.fingerprint) for shard in shards]
    judging = asdict(_scan_config(config, Path(), 0).judging())
    judging.pop("workers")
    return [known, config.encoder, dict(REVISIONS), judging, config.detectors, config.n_replicates, config.data]


def _cell_name(config: BenchConfig, rate: float, seed: int) -> str:
    import re

    parts = (config.data, config.encoder, f"{rate:g}", f"{seed}")
    return "-".join(re.sub(r"[^A-Za-z0-9.]+", "_", part)[-40:] for part in parts)


def _scan_config(config: BenchConfig, run: Path, seed: int, shards: Path | None = None) -> ScanConfig:
    from roclip_audit.sanitize.scan import ScanConfig

    return ScanConfig(
        shards=(str(shards),) if shards is not None else config.shards,
        out=run,
        encoder=config.encoder,
        seed=seed,
        workers=config.workers,
    )


def run_cell(cell: CellPlan, config: BenchConfig, reporter: Reporter) -> None:
    """Plant, scan, run the peers and measure one cell; what a killed run left is used."""
    from roclip_audit.audit.leaderboard.measure import Cell, MeasureConfig, measure_run
    from roclip_audit.audit.leaderboard.rows import write_rows
    from roclip_audit.cli.scan import scan_and_ingest
    from roclip_audit.core.run import RunFolder, write_json
    from roclip_audit.core.staging import staged_folder
    from roclip_audit.sanitize.peers.score import score_peers
    from roclip_audit.train.planting.poison import poison

    reporter.note(f"cell {cell.folder.name}")
    if not cell.planted.exists():
        with staged_folder(cell.planted) as folder:
            truth = folder / "truth"
            poison(
                config.shards, folder / "shards", plan=cell.attacks, seed=cell.seed, truth_path=truth, reporter=reporter
            )
    run, timing = RunFolder(cell.run), cell.folder / "scan.json"
    report = scan_and_ingest(_scan_config(config, run.root, cell.seed, cell.planted / "shards"), reporter)
    if not report.reused:
        write_json(timing, {"seconds": report.seconds})
    if config.peers():
        with run.locked():
            score_peers(run, reporter, names=config.peers(), workers=config.workers)
    seconds: dict[str, Any] = json.loads(timing.read_text(encoding="utf-8")) if timing.exists() else {}
    rows = measure_run(
        run,
        cell.planted / "truth" / "truth.parquet",
        Cell(data=config.data, encoder=config.encoder, rate=cell.rate, seed=cell.seed),
        MeasureConfig(detectors=config.detectors, n_replicates=config.n_replicates),
        scan_seconds=seconds.get("seconds"),
    )
    write_rows(cell.folder / "rows.parquet", rows)
    if not config.keep:
        clear_cell(cell)


def clear_cell(cell: CellPlan) -> None:
    """Remove what takes the room: poisoned shards and embeddings. Evidence, campaigns, peers and truth stay."""
    for folder in (cell.planted / "shards", cell.run / "align"):
        shutil.rmtree(folder, ignore_errors=True)
    for array in (cell.run / "embeddings").glob("*.npy"):
        array.unlink()


def _write_settings(config: BenchConfig) -> None:
    from roclip_audit.core.run import write_json

    asked = {name: value for name, value in asdict(config).items() if name not in {"out", "shards"}}
    write_json(config.out / SETTINGS, {**asked, "machine": dict(_machine(config))})


def _machine(config: BenchConfig) -> Iterator[tuple[str, str]]:
    """Yield what a speed depends on besides the code."""
    import os
    import platform
    from importlib.metadata import version

    from roclip_audit import __version__
    from roclip_audit.core.environment import cpu_features, read_text

    cpuinfo = read_text("/proc/cpuinfo")
    models = (line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name"))
    yield "roclip-audit", __version__
    yield "processor", next(models, platform.processor() or "unknown")
    yield "features", ", ".join(cpu_features(cpuinfo)) or "none that matter"
    yield "workers", str(config.workers)
    yield "load before", f"{os.getloadavg()[0]:.1f}"
    yield "versions", f"python {platform.python_version()}, torch {version('torch')}"


def _write(config: BenchConfig, rows: Sequence[Row]) -> Leaderboard:
    from roclip_audit.audit.leaderboard.report import write_leaderboard
    from roclip_audit.sanitize.peers import PEERS

    notes = [f"{name}: {value}" for name, value in _machine(config)]
    return write_leaderboard(config.out, rows, peers=list(PEERS), notes=notes)
