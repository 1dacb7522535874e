# SPDX-License-Identifier: Apache-2.0
"""Builds in a folder of its own, which is gone afterwards; all else is in pyproject.toml.

setuptools would build in build/ of the sources and take what lies there from an earlier build: a module that is gone
from the sources would come back with the next `pip install .`.
"""

import atexit
import shutil
import tempfile

from setuptools import setup

FOLDER = tempfile.mkdtemp(prefix="pvepassthru-build-")
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
setup(options={"build": {"build_base": FOLDER}, "egg_info": {"egg_base": FOLDER}})
