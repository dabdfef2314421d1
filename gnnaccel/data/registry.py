"""Named data sets, and `load`, which takes a name or a path."""

from __future__ import annotations

import difflib
import json
import os
import shutil
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gnnaccel.data.download import DownloadError, download, sha256_of
from gnnaccel.data.events import DataError, TemporalEvents
from gnnaccel.data.readers import read_events
from gnnaccel.data.synthetic import synthetic_events
from gnnaccel.data.tgb import load_tgb

__all__ = ["REGISTRY", "Dataset", "cache_dir", "fetch", "find", "load", "present"]


@dataclass(frozen=True)
class Dataset:
    """A published data set.

    Attributes:
        name: What users call it.
        urls: Where the publisher has it, and mirrors; tried in order.
        filename: The file with the events: what is downloaded, or a member of the downloaded zip.
        format: A format of `read_events`.
        nodes, events, edge_dim: As published.
        bipartite: As published.
        licence: As the publisher states it.
        source: Paper or page.
        sha256: Of the download. None where the publisher gives none: then that of the first fetch is recorded beside the
            data and demanded afterwards.
        log2: Features are replaced by their log2 (0 stays 0), as TGB does with weights.
        note: Anything a user should know.
    """

    name: str
    urls: tuple[str, ...]
    filename: str
    format: str
    nodes: int
    events: int
    edge_dim: int
    bipartite: bool
    licence: str
    source: str
    sha256: str | None = None
    log2: bool = False
    note: str = ""


_JODIE = "Kumar, Zhang, Leskovec: Predicting Dynamic Embedding Trajectory in Temporal Interaction Networks (KDD 2019)"
_TGB = "Huang et al.: Temporal Graph Benchmark (NeurIPS 2023), tgb.complexdatalab.com"


def _jodie(name: str, nodes: int, events: int, edge_dim: int) -> Dataset:
    url = f"https://snap.stanford.edu/jodie/{name}.csv"
    return Dataset(name, (url,), f"{name}.csv", "jodie", nodes, events, edge_dim, True, "not stated", _JODIE)


def _tgb(name: str, version: int, *args: Any, **kwargs: Any) -> Dataset:
    v = f"-v{version}" if version > 1 else ""
    file = f"{name}_edgelist{v.replace('-', '_')}.csv"
    # The address in TGB's own package, and where the same store answers since its move
    urls = (
        f"https://object-arbutus.cloud.computecanada.ca/tgb/{name}{v}.zip",
        f"https://object-arbutus.alliancecan.ca/swift/v1/14c95234f6cd4a21a47deafe20cce2a7/tgb/{name}{v}.zip",
    )
    return Dataset(name, urls, file, *args, source=_TGB, **kwargs)


REGISTRY: dict[str, Dataset] = {
    d.name: d
    for d in (
        _jodie("wikipedia", 9_227, 157_474, 172),
        _jodie("reddit", 10_984, 672_447, 172),
        _jodie("mooc", 7_144, 411_749, 4),
        _jodie("lastfm", 1_980, 1_293_103, 2),
        _tgb("tgbl-wiki", 2, "jodie", 9_227, 157_474, 172, True, "MIT"),
        _tgb(
            "tgbl-review", 2, "tgb", 352_637, 4_873_540, 1, True, "Amazon licence", log2=True,
            note="version 2, whose counts are published; TGB's newest package fetches a version 3",
        ),
        _tgb("tgbl-coin", 2, "tgb", 638_486, 22_809_486, 1, False, "CC BY-NC", log2=True),
        _tgb("tgbl-comment", 1, "tgb", 994_790, 44_314_507, 2, False, "CC BY-NC"),
        _tgb(
            "tgbl-flight", 2, "tgb", 18_143, 67_169_570, 0, False, "OpenSky licence",
            note="flight numbers (text) and airport features are not read",
        ),
    )
}  # fmt: skip


def cache_dir() -> Path:
    """Where fetched data goes: $GNNACCEL_DATA, else ~/.cache/gnnaccel."""
    root = os.environ.get("GNNACCEL_DATA")
    return Path(root).expanduser() if root else Path.home() / ".cache" / "gnnaccel"


def find(name: str, root: Path | None = None) -> Path | None:
    """The folder or file of a set that is already on this machine: `root/name` or `root/temporal/name`, with events in it."""
    if not name or "/" in name or name.startswith("."):
        return None
    root = cache_dir() if root is None else root
    for folder in (root / name, root / "temporal" / name):
        if name in REGISTRY and (folder / REGISTRY[name].filename).is_file():
            return folder / REGISTRY[name].filename
        if folder.is_dir() and any(p.name.startswith("edges.") for p in folder.iterdir()):
            return folder
    return None


def present(root: Path | None = None) -> list[str]:
    """Names of the sets that are already on this machine, registered or not, in order."""
    root = cache_dir() if root is None else root
    names: set[str] = set()
    for folder in (root, root / "temporal"):
        if folder.is_dir():
            names |= {p.name for p in folder.iterdir() if p.is_dir() and find(p.name, root)}
    return sorted(names)


def _unknown(name: str, root: Path) -> DataError:
    names = ["synthetic", *REGISTRY, *(x for x in present(root) if x not in REGISTRY)]
    near = difflib.get_close_matches(name, names, 1, 0.5)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return DataError(None, f"no file, folder or data set {name!r}{hint}", "there are " + ", ".join(names))


def fetch(name: str, *, root: Path | None = None, force: bool = False, progress: bool = True, **options: Any) -> Path:
    """Download a registered set into `root/name` unless it is there; check its sha256.

    Args:
        name: A key of `REGISTRY`.
        root: Default `cache_dir()`.
        force: Download again.
        progress: Show a bar.
        **options: To `download`.

    Returns:
        The file with the events.

    Raises:
        DataError: An unknown name.
        DownloadError: The download failed, or a hash is not the expected one.
    """
    root = cache_dir() if root is None else Path(root)
    if name not in REGISTRY:
        raise _unknown(name, root)
    record = REGISTRY[name]
    folder = root / name
    target, sums_file = folder / record.filename, folder / "sha256.json"
    sums: dict[str, str] = {}
    if sums_file.is_file():
        try:
            sums = json.loads(sums_file.read_text())
        except ValueError:
            raise DownloadError(f"{sums_file}: damaged; delete it to record the hashes anew") from None
    if target.is_file() and not force:
        known = sums.get(record.filename)
        if known is not None and (found := sha256_of(target)) != known:
            raise DownloadError(f"{target}: sha256 is {found}, not the recorded {known}; fetch it again with --force")
        return target
    archive = folder / record.urls[0].rsplit("/", 1)[1]
    expected = record.sha256 or sums.get(archive.name)
    try:
        sums[archive.name] = download(record.urls, archive, sha256=expected, progress=progress, **options)
    except DownloadError as e:
        if record.sha256 is None and expected and "sha256 is" in str(e):
            raise DownloadError(
                f"{e} (recorded at the first fetch; delete {sums_file} if the change is meant)"
            ) from None
        raise
    if archive != target:
        _extract(archive, record.filename, target)
        sums[record.filename] = sha256_of(target)
        archive.unlink()
    scratch = sums_file.with_suffix(".tmp")
    scratch.write_text(json.dumps(sums, indent=1) + "\n")
    os.replace(scratch, sums_file)
    return target


def _extract(archive: Path, member: str, target: Path) -> None:
    scratch = target.with_name(target.name + ".tmp")
    try:
        with zipfile.ZipFile(archive) as z:
            names = [n for n in z.namelist() if n.rsplit("/", 1)[-1] == member]
            if not names:
                raise DownloadError(f"{archive}: has no {member}, only {', '.join(z.namelist()[:5])}")
            with z.open(names[0]) as src, open(scratch, "wb") as dst:
                shutil.copyfileobj(src, dst, 1 << 20)
        os.replace(scratch, target)
    except zipfile.BadZipFile as e:
        archive.unlink(missing_ok=True)
        raise DownloadError(f"{archive}: not a zip file ({e}); fetch it again") from None
    except OSError as e:
        raise DownloadError(
            f"{target}: cannot be written ({e.strerror or e}); set GNNACCEL_DATA to a folder with room"
        ) from None
    finally:
        scratch.unlink(missing_ok=True)


_SYNTHETIC = {
    "events": ("num_events", int),
    "src": ("num_src", int),
    "dst": ("num_dst", int),
    "communities": ("communities", int),
    "recency": ("recency", float),
    "repetition": ("repetition", float),
    "feat": ("feat_dim", int),
    "seed": ("seed", int),
}


def _synthetic(spec: str) -> TemporalEvents:
    kwargs: dict[str, Any] = {}
    for item in filter(None, spec.split(",")):
        key, eq, value = item.partition("=")
        key = key.strip()
        if key not in _SYNTHETIC or not eq:
            near = difflib.get_close_matches(key, _SYNTHETIC, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise DataError(None, f"synthetic has no option {item!r}{hint}", f"there are {', '.join(_SYNTHETIC)}")
        arg, kind = _SYNTHETIC[key]
        try:
            kwargs[arg] = kind(value)
        except ValueError:
            raise DataError(None, f"synthetic: {key} must be {kind.__name__}, got {value!r}") from None
    try:
        return synthetic_events(**kwargs)
    except ValueError as e:
        raise DataError(None, str(e)) from None


def load(
    source: Any, *, root: Path | None = None, download: bool = True, progress: bool = True, **options: Any
) -> TemporalEvents:
    """Events from a path, by name, or from a `TemporalData` of torch_geometric or of `gnnaccel.pyg`.

    A path that exists wins. Then `synthetic`, also with options as in `synthetic:events=50000,seed=1` (events, src, dst,
    communities, recency, repetition, feat, seed), and `tgb:NAME` through py-tgb. Then sets found in `cache_dir()` or its
    `temporal/` folder, then registered ones, which are fetched.

    Args:
        source: Path, name, or `TemporalData` (see `TemporalEvents.from_pyg`, which also takes the options).
        root: Instead of `cache_dir()`.
        download: Whether a registered set that is not here may be fetched.
        progress: Show a bar when fetching.
        **options: To `read_events`.

    Raises:
        DataError: Nothing of that name, or unreadable data.
        DownloadError: Fetching failed.
    """
    if isinstance(source, TemporalEvents):
        return source
    if all(hasattr(source, field) for field in ("src", "dst", "t")):
        return TemporalEvents.from_pyg(source, **options)
    text = str(source)
    if Path(text).exists():
        return read_events(text, **options)
    head, _, spec = text.partition(":")
    if head == "synthetic":
        return _synthetic(spec)
    if head == "tgb":
        return load_tgb(spec)
    root = cache_dir() if root is None else Path(root)
    place = find(text, root)
    record = REGISTRY.get(text)
    if place is None:
        if record is None:
            if "/" in text or Path(text).suffix:
                raise DataError(text, "no such file or folder", "check the path")
            raise _unknown(text, root)
        if not download:
            raise DataError(None, f"{text} is not on this machine", f"run: gnnaccel data fetch {text}")
        place = fetch(text, root=root, progress=progress)
    if record is not None and place.is_file():
        options = {"format": record.format, "time_unit": "s", **options}
    events = replace(read_events(place, **options), name=text)
    if record is not None and record.log2 and place.is_file() and events.edge_feat is not None:
        x = events.edge_feat
        events = replace(events, edge_feat=torch.log2(torch.where(x == 0, torch.ones_like(x), x)))
    return events
