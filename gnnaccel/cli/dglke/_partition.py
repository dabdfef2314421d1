"""`gnnaccel dglke partition`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from gnnaccel.cli.dglke._flags import DATA, MACHINE, DataFiles, DataPath, Dataset, Delimiter, Format, _option
from gnnaccel.cli.dglke._settings import read_data


def partition(
    num_parts: Annotated[
        int, _option("--num-parts", "-k", "--num_parts", min=1, help="How many parts.", panel=DATA, show_default=False)
    ],
    data_path: DataPath = "data",
    dataset: Dataset = "FB15k",
    data_files: DataFiles = None,
    delimiter: Delimiter = None,
    format: Format = "built_in",
    quiet: Annotated[bool, _option("--quiet", "-q", help="Ours: no progress bars.", panel=MACHINE)] = False,
) -> None:
    """Cut a graph into parts by METIS, into DATA_PATH/DATASET/partition_0 and so on, with dglke_partition's flags.

    Each part has train.txt (local ids), local_to_global.txt, partition_book.txt and relation_count.txt. A triple belongs to the
    part of its tail. Needs pymetis. `gnnaccel kg partition` has more options.

    Examples:

        gnnaccel dglke partition --dataset FB15k -k 4 --data_path my_task

        gnnaccel dglke partition --dataset mine --format raw_udd_hrt --data_path my/folder --data_files train.tsv -k 8
    """
    from gnnaccel.cli.kg_partition import cut

    kg, _, _ = read_data(data_path, dataset, format, data_files, delimiter)
    folder = Path(data_path) / Path(dataset).name
    book, sizes = cut(kg, num_parts, folder, quiet)
    if format.startswith("raw"):
        kg.save_names(folder)
    for p, size in enumerate(sizes):
        print(
            f"part {p} has {size.entities + size.halo} nodes and {size.triples} edges. {size.entities} nodes and "
            f"{size.inner} edges are inside the partition"
        )
    print(f"there are {len(kg.train)} edges in the graph and {book.cut} edge cuts for {num_parts} partitions.")
