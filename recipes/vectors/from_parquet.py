"""A column of vectors in Parquet files as a NumPy file of rows and, of another column, a text file of their ids.

    python recipes/vectors/from_parquet.py --column emb --id-column _id --vectors corpus.npy --ids corpus.ids part-*.parquet
    trawl index build --corpus corpus.jsonl --collection docs --vectors corpus.npy --ids corpus.ids --metric cosine

The column holds lists of floats, of fixed or variable length, all equally long in fact. Files are joined in the order given and read
by batches of rows. It needs pyarrow; for a step that is done once, the parquet crate and what it needs are too much to compile.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as arrow
import pyarrow.compute
import pyarrow.parquet as parquet


def rows_of(path, first, column):
    """Returns the vectors of a batch as rows of 32-bit floats; `first` is the number of its first row in the file."""
    if not (arrow.types.is_list(column.type) or arrow.types.is_large_list(column.type) or arrow.types.is_fixed_size_list(column.type)):
        raise SystemExit(f"error: {path}: the column holds {column.type}, not lists of floats")
    if not arrow.types.is_floating(column.type.value_type):
        raise SystemExit(f"error: {path}: the column holds {column.type}, not lists of floats")
    if column.null_count:
        raise SystemExit(f"error: {path}: row {first + column.is_null().to_pylist().index(True)} has no vector")
    values = column.flatten()
    if values.null_count:
        raise SystemExit(f"error: {path}: a vector among rows {first} to {first + len(column) - 1} has a missing value")
    widths = arrow.compute.list_value_length(column).to_numpy()
    if len(column) and (odd := np.flatnonzero(widths != widths[0])).size:
        raise SystemExit(f"error: {path}: row {first + odd[0]} has width {widths[odd[0]]}, the rows before it {widths[0]}")
    return values.to_numpy(zero_copy_only=False).astype("<f4").reshape(len(column), -1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--column", required=True, help="column of the vectors")
    parser.add_argument("--id-column", required=True)
    parser.add_argument("--vectors", type=Path, required=True, help="NumPy file to write")
    parser.add_argument("--ids", type=Path, required=True, help="text file to write, an id a line")
    args = parser.parse_args()
    files = [parquet.ParquetFile(path) for path in args.files]
    for path, file in zip(args.files, files):
        if missing := {args.column, args.id_column} - set(file.schema_arrow.names):
            raise SystemExit(f"error: {path} has no column {', '.join(sorted(missing))}, but {', '.join(file.schema_arrow.names)}")
    n_rows, start, out = sum(file.metadata.num_rows for file in files), 0, None
    with open(args.ids, "w") as ids:
        for path, file in zip(args.files, files):
            first = 0
            for batch in file.iter_batches(batch_size=8192, columns=[args.column, args.id_column]):
                rows = rows_of(path, first, batch.column(args.column))
                if out is None:
                    out = np.lib.format.open_memmap(args.vectors, "w+", "<f4", (n_rows, rows.shape[1]))
                if rows.shape[1] != out.shape[1]:
                    raise SystemExit(f"error: {path}: row {first} has width {rows.shape[1]}, the rows before it {out.shape[1]}")
                out[start : start + len(rows)] = rows
                for id in batch.column(args.id_column).to_pylist():
                    if id is None or "\n" in str(id) or "\r" in str(id):
                        raise SystemExit(f"error: {path}: the id {id!r} fits no line")
                    ids.write(f"{id}\n")
                first, start = first + len(rows), start + len(rows)
    if out is None:
        raise SystemExit("error: the files have no row")
    out.flush()


if __name__ == "__main__":
    main()
