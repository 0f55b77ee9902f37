"""Pickled embeddings of OpenMatch and Tevatron as a NumPy file of rows and a text file of their ids.

    python recipes/vectors/from_pickle.py --vectors corpus.npy --ids corpus.ids embeddings.corpus.rank.*
    trawl index build --corpus corpus.jsonl --collection docs --vectors corpus.npy --ids corpus.ids --metric ip

Both toolkits write pairs (array of shape (n, width), list of n ids), one file for each process; files are joined in the order given.
A pickle can run any code when it is loaded. Here it may name what arrays are made of and nothing else.
"""

import argparse
import pickle
from pathlib import Path

import numpy as np

ALLOWED = {
    ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"),
    *((module, name) for module in ("numpy.core.multiarray", "numpy._core.multiarray") for name in ("_reconstruct", "scalar")),
    *((module, "_frombuffer") for module in ("numpy.core.numeric", "numpy._core.numeric")),
}


class ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no array needs")
        return super().find_class(module, name)


def read(path):
    """Returns rows of 32-bit floats and their ids as text."""
    try:
        with open(path, "rb") as file:
            pair = ArrayUnpickler(file).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, TypeError, ValueError) as error:
        raise SystemExit(f"error: {path} is no pickled pair of array and ids: {error}")
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise SystemExit(f"error: {path} holds no pair of array and ids")
    rows, ids = pair
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.dtype.kind != "f":
        raise SystemExit(f"error: {path} begins with no two-dimensional array of floats")
    if not isinstance(ids, (list, tuple, np.ndarray)) or len(ids) != len(rows):
        raise SystemExit(f"error: {path} has {len(rows)} rows and not as many ids")
    ids = [str(id) for id in ids]
    if bad := [id for id in ids if "\n" in id or "\r" in id]:
        raise SystemExit(f"error: {path}: the id {bad[0]!r} has a line break")
    return rows.astype("<f4"), ids


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pickles", nargs="+", type=Path)
    parser.add_argument("--vectors", type=Path, required=True, help="NumPy file to write")
    parser.add_argument("--ids", type=Path, required=True, help="text file to write, an id a line")
    args = parser.parse_args()
    parts = [read(path) for path in args.pickles]
    widths = {rows.shape[1] for rows, _ in parts}
    if len(widths) > 1:
        raise SystemExit(f"error: the files have rows of different widths: {sorted(widths)}")
    with open(args.vectors, "wb") as file:  # by name, NumPy would put `.npy` behind one without it
        np.save(file, np.concatenate([rows for rows, _ in parts]))
    args.ids.write_text("".join(f"{id}\n" for _, ids in parts for id in ids))


if __name__ == "__main__":
    main()
