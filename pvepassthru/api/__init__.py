# SPDX-License-Identifier: Apache-2.0
"""The PVE API: configuration generated from requirements, judged, and applied.

`from pvepassthru.api import Pve, Wish, Device` is the library for those who automate (api/library.py names all of it,
docs/api.md has an example). It is loaded when it is first used, so that this package itself imports nothing.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pvepassthru.api.library import *  # noqa: F403 - it names what it offers
else:  # a type checker would take every name for one that is there

    def __getattr__(name: str) -> object:
        """A class of the library. Raises AttributeError for another name."""
        if name[:1].isupper():  # the package's modules have small letters
            from pvepassthru.api import library  # noqa: PLC0415 - as said above

            if name in library.__all__:
                return getattr(library, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
