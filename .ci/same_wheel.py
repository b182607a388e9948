"""Checks that two wheels hold the same files, byte for byte: python same_wheel.py ONE.whl OTHER.whl"""

import sys
import zipfile

one, other = (zipfile.ZipFile(path) for path in sys.argv[1:])
names = set(one.namelist())
assert names == set(other.namelist()), names ^ set(other.namelist())
different = [name for name in sorted(names) if one.read(name) != other.read(name)]
assert not different, different
print(f"both wheels have the same {len(names)} files")
