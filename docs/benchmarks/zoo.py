"""Put every model of the zoos through the checks of `tests/zoo/conformance.py`; writes docs/zoo.md and its data.

Run it with ``tox run -e zoo``, from the root of a clone. Each model has random weights and a process of its own with a time
limit; timm's models on the `meta` device share one in batches. A run of some models merges its records with those that
docs/benchmarks/zoo.json holds already, so the whole can be done in pieces:

    python docs/benchmarks/zoo.py --jobs 2                        everything
    python docs/benchmarks/zoo.py --zoo timm --shard 1/4          every fourth model of one zoo
    python docs/benchmarks/zoo.py --only 'resnet*' --only vit_b_16
    python docs/benchmarks/zoo.py --peer                          Torch-Pruning's columns beside ours
    python docs/benchmarks/zoo.py --page                          docs/zoo.md anew from docs/benchmarks/zoo.json
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import zoo_page  # noqa: E402
from tests.zoo import catalogue, conformance  # noqa: E402

LIMIT = 120.0
PROCESSES = multiprocessing.get_context("forkserver")
"""Each process is forked from one that has imported the libraries, and has met no model."""

STARTING = 120.0
"""Seconds that a process may take until it begins with its first model."""

BATCH = 60
PACKAGES = {"torchvision": "torchvision", "timm": "timm", "timm-meta": "timm", "transformers": "transformers"}

Record = dict[str, Any]


@frozen
class Batch:
    """Models of one zoo that share a process, and whether Torch-Pruning is to prune them."""

    zoo: str
    names: tuple[str, ...]
    peer: bool = False


def versions(zoo: str, peer: bool) -> dict[str, str]:
    """What a record is made with."""
    packages = ["depgraph", "torch", *([PACKAGES[zoo]] if zoo in PACKAGES else []), *(["torch-pruning"] if peer else [])]
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a clone that is run without being installed
            found[package] = "clone"
    return found


def work(batch: Batch, into: Path) -> None:
    """What a process does: examine its models, and append each state of each record to a file as it comes."""
    import torch

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    models = catalogue.ZOOS[batch.zoo].models()
    with into.open("a", encoding="utf-8") as file:

        def append(name: str) -> Callable[[Record], None]:
            def report(record: Record) -> None:
                file.write(json.dumps({"model": name, **record}) + "\n")
                file.flush()

            return report

        for name in batch.names:
            report = append(name)
            report({"stage": "start"})
            if batch.peer:
                from tests.zoo import peer

                report(peer.examine(models[name], report=report))
            else:
                report(conformance.examine(models[name], timed=catalogue.ZOOS[batch.zoo].timed, report=report))


def work_apart(batch: Batch, into: Path, said: Path) -> None:
    """`work` in a process group of its own, with what it says in a file."""
    os.setsid()
    with said.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    work(batch, into)


def run(batch: Batch, limit: float) -> Iterator[Record]:
    """The records of a batch: its process is watched, ended at the limit, and begun anew with the models that are left."""
    while batch.names:
        with tempfile.TemporaryDirectory() as folder:
            path, errors = Path(folder) / "records", Path(folder) / "errors"
            path.touch()
            errors.touch()
            process = PROCESSES.Process(target=work_apart, args=(batch, path, errors))
            process.start()
            try:
                end = watch(process, path, limit)
            finally:
                stop(process)
            said = errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            last = {record["model"]: record for record in map(json.loads, path.read_text(encoding="utf-8").splitlines())}
        done = [name for name in batch.names if name in last]
        for name in done:
            yield finished(last[name], end, said)
        if not done:  # the process ended before its first model
            done = [batch.names[0]]
            yield finished({"model": done[0], "stage": "start"}, end, said)
        batch = evolve(batch, names=tuple(name for name in batch.names if name not in done))


def watch(process: BaseProcess, path: Path, limit: float) -> str:
    """Wait until the process ends or one of its models is over the limit; how it ended."""
    current, since = "", time.monotonic()
    seen = 0
    while process.is_alive():
        process.join(0.05)
        if path.stat().st_size != seen:
            seen = path.stat().st_size
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            name = next((json.loads(line)["model"] for line in reversed(lines) if line.endswith("\n")), "")
            if name != current:
                current, since = name, time.monotonic()
        if time.monotonic() - since > (limit if current else STARTING):
            return f"over the limit of {limit:.0f} s"
    code = process.exitcode or 0
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"


def stop(process: BaseProcess) -> None:
    """End a process that is still running, with its children."""
    if process.is_alive():
        os.killpg(process.pid, signal.SIGKILL)
    process.join()


def finished(record: Record, end: str, said: list[str]) -> Record:
    """A record; if its process ended in the middle of a check, that is what came of the check."""
    stage = record.pop("stage", None)
    if stage is None:
        return record
    checks = record.setdefault("checks", {})
    why = end if not end.startswith("ended with status") or not said else f"{end}: {said[-1]}"
    if stage == "zero_channels" and end.startswith("over"):
        checks[stage] = f"- {end}"  # nothing was refuted
    elif stage == "timing":
        record.setdefault("seconds", {})["forward failed"] = why
    else:
        checks[stage if stage in checks else "trace"] = f"{why} (in {stage})"[:240]
    return record


@frozen
class Store:
    """The folder in which zoo.md and benchmarks/zoo.json are."""

    folder: Path

    @property
    def data(self) -> Path:
        """Where the records are."""
        return self.folder / "benchmarks" / "zoo.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs from writing between a reading and a writing, where the system has such locks."""
        try:
            import fcntl
        except ImportError:
            yield
            return
        self.data.parent.mkdir(parents=True, exist_ok=True)
        with self.data.with_name("zoo.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def load(self) -> dict[tuple[str, str], Record]:
        """The records so far, by zoo and model."""
        if not self.data.exists():
            return {}
        return {
            (record["zoo"], record["model"]): record for record in json.loads(self.data.read_text(encoding="utf-8"))["records"]
        }

    def save(self, records: Mapping[tuple[str, str], Record]) -> None:
        """Write the data, one record to a line, sorted, and the page that shows it."""
        lines = ",\n".join(json.dumps(records[key], sort_keys=True) for key in sorted(records))
        beside = self.data.with_name("zoo.json.part")
        beside.write_text(f'{{"format": 1, "records": [\n{lines}\n]}}\n', encoding="utf-8")
        beside.replace(self.data)
        (self.folder / "zoo.md").write_text(zoo_page.page(list(records.values())), encoding="utf-8")

    def merge(self, zoo: str, peer: bool, made: Record) -> None:
        """Put one record in the place of the one before; ours and Torch-Pruning's stand beside each other."""
        with self.locked():
            records = self.load()
            key = zoo, made["model"]
            before = records.get(key, {"zoo": zoo, "model": made["model"], "checks": {}})
            family = catalogue.family(zoo, made["model"])
            made = {**made, "versions": versions(zoo, peer)}
            if peer:
                records[key] = {**before, "peer": made}
            else:
                kept = {"peer": before["peer"]} if "peer" in before else {}
                records[key] = {"zoo": zoo, **({"family": family} if family else {}), **made, **kept}
            self.save(records)

    def forget(self, zoos: Iterable[str]) -> None:
        """Drop the records of models that the zoos do not have any more."""
        with self.locked():
            names = {zoo: set(catalogue.ZOOS[zoo].models()) for zoo in zoos}
            records = self.load()
            self.save({key: record for key, record in records.items() if key[0] not in names or key[1] in names[key[0]]})


def selected(options: argparse.Namespace) -> list[Batch]:
    """The batches that a command line asks for."""
    k, n = map(int, options.shard.split("/"))
    if not 1 <= k <= n:
        raise SystemExit(f"--shard: expected k/n with 1 <= k <= n, met {options.shard}")
    found = []
    for zoo in options.zoo or catalogue.ZOOS:
        names = [
            name
            for name in catalogue.ZOOS[zoo].models()
            if not options.only
            or any(fnmatch.fnmatch(name, glob) or fnmatch.fnmatch(f"{zoo}/{name}", glob) for glob in options.only)
        ]
        names = sorted(names)[k - 1 :: n]
        size = BATCH if catalogue.ZOOS[zoo].batched else 1
        chunks = [tuple(names[start : start + size]) for start in range(0, len(names), size)]
        if not options.peer_only:
            found += [Batch(zoo, chunk) for chunk in chunks]
        if (options.peer or options.peer_only) and catalogue.ZOOS[zoo].peer:
            found += [Batch(zoo, chunk, peer=True) for chunk in chunks]
    return found


def shown(zoo: str, peer: bool, record: Record) -> str:
    """One line for the console."""
    wrong = conformance.failures(record)
    whose = " (Torch-Pruning)" if peer else ""
    ratio = record.get("seconds", {}).get("ratio", "-")
    return f"{zoo}/{record['model']}{whose}: {'; '.join(wrong) or 'ok'} [trace ratio {ratio}]"


def main() -> None:
    """Examine the models that are asked for, and write the data and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", action="append", choices=list(catalogue.ZOOS), help="only this zoo; may be repeated")
    parser.add_argument("--only", action="append", metavar="GLOB", help="only models (name or zoo/name); may be repeated")
    parser.add_argument("--shard", default="1/1", metavar="K/N", help="every N-th model, from the K-th")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--limit", type=float, default=LIMIT, metavar="SECONDS", help="for one model")
    parser.add_argument("--peer", action="store_true", help="Torch-Pruning's columns, too")
    parser.add_argument("--peer-only", action="store_true", help="Torch-Pruning's columns only")
    parser.add_argument("--dry", action="store_true", help="print, and write nothing")
    parser.add_argument("--page", action="store_true", help="write docs/zoo.md from docs/benchmarks/zoo.json, and run nothing")
    parser.add_argument(
        "--into",
        type=Path,
        default=ROOT / "docs",
        metavar="FOLDER",
        help="of zoo.md and benchmarks/zoo.json; docs/ unless given",
    )
    options = parser.parse_args()
    store = Store(options.into)
    if options.page:
        with store.locked():
            store.save(store.load())
        return
    PROCESSES.set_forkserver_preload(["tests.zoo.libraries"])
    print_lock = threading.Lock()

    def job(batch: Batch) -> int:
        wrong = 0
        for record in run(batch, options.limit):
            line = shown(batch.zoo, batch.peer, record)
            wrong += bool(conformance.failures(record)) and not batch.peer
            if not options.dry:
                store.merge(batch.zoo, batch.peer, record)
            with print_lock:
                print(line, flush=True)
        return wrong

    batches = selected(options)
    with ThreadPoolExecutor(options.jobs) as pool:
        wrong = sum(pool.map(job, batches))
    if not options.only and not options.dry and options.shard == "1/1":
        store.forget(options.zoo or catalogue.ZOOS)
    print(f"{sum(len(batch.names) for batch in batches)} records, {wrong} of ours with a failure")


if __name__ == "__main__":
    main()
