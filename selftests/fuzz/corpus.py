#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""The corpus of a fuzz target is a text file with an input on each line, in hexadecimal; the fuzzer wants a
file for each: corpus.py unpack|pack FILE FOLDER"""

import pathlib
import sys

command, name, folder = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
if command == "unpack":
    folder.mkdir(parents=True, exist_ok=True)
    for number, line in enumerate(name.read_text().split("\n")):
        (folder / f"kept-{number}").write_bytes(bytes.fromhex(line))
else:
    inputs = {path.read_bytes().hex() for path in folder.iterdir()}
    name.write_text("\n".join(sorted(inputs, key=lambda line: (len(line), line))))
