"""Small files as numpy.save writes them: npy/*.npy. Made with numpy 2.4."""
import pathlib

import numpy as np

folder = pathlib.Path(__file__).with_suffix("")
folder.mkdir(exist_ok=True)
for name, scores in {
    "f4": np.array([0.5, -1.25, 3e38], "<f4"),
    "f8_big_endian": np.array([0.1, -2.5, 1e300], ">f8"),
    "i8_column": np.array([[-3], [0], [2**53]], "<i8"),
    "u1_fortran_column": np.asfortranarray(np.array([[0], [7], [255]], "u1")),
    "bool": np.array([True, False]),
}.items():
    np.save(folder / f"{name}.npy", scores)
with open(folder / "i2_big_endian_v2.npy", "wb") as file:
    np.lib.format.write_array(file, np.array([-2, 300], ">i2"), version=(2, 0))
