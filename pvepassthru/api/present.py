# SPDX-License-Identifier: Apache-2.0
"""The config of one VM as its next start takes it: from the file on its node, or from what the API answers.

Nothing is read from a VM's description; that of the API is left out. Sources: nodes/N/qemu/V/config and /pending.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.model import vmconfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pvepassthru.model.vmconfig import Section, VmConfig

_NO_OPTIONS = frozenset({"description", "digest"})


class Present(NamedTuple):
    """A VM's config."""

    vmid: int
    node: str
    config: VmConfig
    section: Section
    """The main section with the pending changes applied."""
    digest: str | None = None
    """What PVE calls the file's state; a write with another one is refused."""

    @property
    def values(self) -> dict[str, str]:
        """The values of `section` by key."""
        return {key: value.text for key, value in self.section.values.items()}

    def get(self, key: str) -> str | None:
        """The value in force, or None."""
        return self.section.get(key)

    @property
    def held(self) -> Present:
        """The same VM by the values in force now, without what is pending; it has no digest."""
        if not self.config.has_pending:
            return self
        return _parsed(
            self.vmid, self.node, _text({key: value.text for key, value in self.config.main.values.items()}), None
        )

    @property
    def text(self) -> bytes:
        """The values in force as the text of a config without pending changes, as PVE would write it anew."""
        return _text(self.values)

    def changed(self, changes: Mapping[str, str | None]) -> Present:
        """The config with other values; None deletes a key. It has no digest, since PVE has not written it."""
        values = self.values | {key: text for key, text in changes.items() if text is not None}
        gone = {key for key, text in changes.items() if text is None}
        return _parsed(
            self.vmid, self.node, _text({key: text for key, text in values.items() if key not in gone}), None
        )


def of_file(vmid: int, node: str, data: bytes) -> Present:
    """The config by the bytes of its file, /etc/pve/nodes/NODE/qemu-server/VMID.conf. Never raises."""
    return _parsed(vmid, node, data, hashlib.sha1(data, usedforsecurity=False).hexdigest())


def of_api(
    vmid: int, node: str, config: Mapping[str, object], pending: Iterable[Mapping[str, object]] | None = None
) -> Present:
    """The config by nodes/N/qemu/V/config and, to tell what is only pending, /pending. Never raises.

    Without `pending` the answer of `config` counts, which by default has the pending changes applied.
    """
    digest = config.get("digest")
    if pending is None:
        data = _text(_options(config))
    else:
        entries = [entry for entry in pending if isinstance(entry.get("key"), str)]
        main = {str(entry["key"]): entry["value"] for entry in entries if "value" in entry}
        new = {str(entry["key"]): entry["pending"] for entry in entries if "pending" in entry}
        deletes = sorted(str(entry["key"]) for entry in entries if entry.get("delete"))
        data = _text(_options(main))
        if new or deletes:
            data += b"[PENDING]\n" + (f"delete: {','.join(deletes)}\n".encode() if deletes else b"")
            data += _text(_options(new))
    return _parsed(vmid, node, data, str(digest) if digest else None)


def _parsed(vmid: int, node: str, data: bytes, digest: str | None) -> Present:
    config = vmconfig.parse(data)
    return Present(vmid, node, config, config.effective(), digest)


def _options(answer: Mapping[str, object]) -> dict[str, str]:
    """The options in an answer as text, sorted."""
    return {
        key: str(int(value) if isinstance(value, bool) else value)
        for key, value in sorted(answer.items())
        if key not in _NO_OPTIONS and isinstance(value, str | int | float)
    }


def _text(values: Mapping[str, str]) -> bytes:
    """A section's lines. What cannot stand on a line, as a text of several, is no option that matters here."""
    lines = [f"{key}: {text}\n" for key, text in values.items() if "\n" not in text and "\n" not in key]
    return "".join(lines).encode("utf-8", "surrogateescape")
