# SPDX-License-Identifier: Apache-2.0
"""Where orlopd is meant to differ from containerd 1.6, and why: the only place where a difference is allowed.

Every entry has to be needed: a run of all scenarios fails when one of them never applied.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.differential.calls import Answer


@dataclass(frozen=True)
class Difference:
    """One difference. All patterns are regular expressions that must match the whole."""

    name: str
    why: str
    scenario: str = r".*"
    """The scenarios, or kinds of generated sequences, that it is limited to."""
    methods: str = ""
    """The methods whose answers may differ."""
    standard: str = ""
    """The code that containerd gives, when codes may differ."""
    subject: str = ""
    """The code that orlopd gives instead."""
    said: str = r"(?s).*"
    """Found in the text of containerd's error."""
    fields: str = ""
    """Paths of fields that may differ."""
    values: str = r"(?s).*"
    """Matched against ``<containerd's> -> <orlopd's>`` of such a field."""
    extra_event: str = ""
    """Found in events that only orlopd tells of, as ``path=value`` lines."""
    missing_event: str = ""
    """Found in events that only containerd tells of."""
    event_field: str = ""
    """A field that only orlopd's events have, as ``path=value``."""
    repeated: bool = False
    """Whether containerd's stream may end with its last answer once more."""
    wording: bool = False
    """Whether orlopd's error may leave out names that containerd's has."""

    def explains_code(self, method: str, standard: Answer, subject: Answer) -> bool:
        """Whether it allows these two codes."""
        return bool(
            self.standard
            and re.fullmatch(self.methods, method)
            and re.fullmatch(self.standard, standard.code)
            and re.fullmatch(self.subject, subject.code)
            and re.search(self.said, standard.text)
        )

    def explains_field(self, method: str, path: str, pair: tuple[str | None, str | None]) -> bool:
        """Whether it allows a field to differ."""
        return bool(
            self.fields
            and re.fullmatch(self.methods, method)
            and re.fullmatch(self.fields, path)
            and re.fullmatch(self.values, f"{pair[0]} -> {pair[1]}")
        )

    def explains_repetition(self, method: str) -> bool:
        """Whether it allows one answer too many."""
        return self.repeated and bool(re.fullmatch(self.methods, method))

    def explains_text(self, method: str, standard: Answer) -> bool:
        """Whether it allows an error that does not name what containerd's names."""
        return self.wording and bool(re.fullmatch(self.methods, method) and re.search(self.said, standard.text))


DIFFERENCES: tuple[Difference, ...] = (
    Difference(
        "end of a write",
        "containerd sends the last answer once more when a write ends, which no client waits for",
        methods=r"Content\.Write",
        repeated=True,
    ),
    Difference(
        "write action",
        "containerd answers to an action that does not exist as if it had done something",
        methods=r"Content\.Write",
        standard="OK",
        subject="INVALID_ARGUMENT",
        scenario="write content: unknown action.*",
    ),
    Difference(
        "extensions that are gone",
        "containerd never takes an extension of a container out of its store, whatever an update says",
        methods=r"Containers\.(Get|List|Update)",
        fields=r"containers?(\[0\])?\.extensions\[.*\](\..*)?",
        values=r"(?s).* -> None",
        scenario=r"update a container: .*(extensions|no mask|mask '(none)?').*",
    ),
    Difference(
        "label without a key",
        "containerd fails to store it and has no code for that",
        standard="UNKNOWN",
        subject="INVALID_ARGUMENT",
        methods=".*",
        said="key required",
    ),
    Difference(
        "content events",
        "containerd tells of content since 2.0, and so do we",
        extra_event=r"topic=/content/(create|delete) ",
    ),
    Difference(
        "snapshotter of an event",
        "events of snapshots name the snapshotter since containerd 2.0",
        event_field=r" event\.value\.snapshotter=\w+",
    ),
    Difference(
        "collected snapshots",
        "containerd tells of snapshots that garbage collection removes since 2.0",
        extra_event=r"topic=/snapshot/remove ",
        scenario=r"(?i)(collect|under a lease|leases).*",
    ),
    Difference(
        "commit without an offset",
        "a commit that leaves its offset out is one of all that is stored; containerd throws that away first",
        methods=r"Content\.(Write|Info)",
        standard="NOT_FOUND",
        subject="OK",
        fields=r"\d\.(offset|digest)",
        scenario=r"commit content: (later, no offset|with more data, no offset)",
    ),
    Difference(
        "total of an earlier call",
        "asked how far an ingest is, we tell its total also when an earlier call announced it, or another namespace",
        methods=r"Content\.Write",
        fields=r"\d+\.total",
        values=r"None -> \d+",
    ),
    Difference(
        "shared ingests",
        "an ingest whose content another namespace has has a status like any other",
        methods=r"Content\.(ListStatuses|Status)",
        standard="NOT_FOUND",
        subject="OK",
        fields=r"status(es\[0\])?(\.(expected|total|offset|ref|started_at|updated_at))?",
        values=r"None -> .*",
        scenario=r".*(another namespace|offset too small|offset too large|wrong digest|label too long).*",
    ),
    Difference(
        "digest of nonsense",
        "what cannot be a digest is refused as such, and before anything is stored",
        methods=r"Content\.Write",
        standard="FAILED_PRECONDITION",
        subject="INVALID_ARGUMENT",
        said="expected nonsense",
    ),
    Difference(
        "nothing stored under a digest of nonsense",
        "what cannot be a digest is refused as such, and before anything is stored",
        methods=r"Content\.(Write|ListStatuses|Status)",
        standard="OK",
        subject="INVALID_ARGUMENT|NOT_FOUND",
        fields=r"statuses\[0\].*",
        values=r"(?s).* -> None",
        scenario="write content: expected digest of nonsense",
    ),
    Difference(
        "sha512",
        "we store content by any of OCI's digests, containerd by sha256 only",
        methods=r"Content\.Write",
        standard="FAILED_PRECONDITION",
        subject="OK",
        said="expected sha512:",
    ),
    Difference(
        "committed by sha512",
        "what was committed by another digest is not being ingested any more",
        methods=r"Content\.(ListStatuses|Status)",
        standard="OK",
        subject="NOT_FOUND",
        fields=r"statuses\[0\].*",
        values=r"(?s).* -> None",
        scenario="commit content: digest of sha512",
    ),
    Difference(
        "begun with another total",
        "an ingest that begins anew has no bytes; containerd lists those it had before",
        methods=r"Content\.(ListStatuses|Status)",
        fields=r"status(es\[0\])?\.offset",
        values="12 -> None",
        scenario="write content: total of a later call",
    ),
    Difference(
        "updates in lists of content",
        "lists tell when content was updated last, as its info does",
        methods=r"Content\.List",
        fields=r".*\.updated_at",
        values=r"None -> .*",
    ),
    Difference(
        "limits of a lease's labels",
        "labels of leases have the same limits as all others",
        methods=r"Leases\.(Create|List)",
        standard="OK",
        subject="INVALID_ARGUMENT",
        fields=r"leases\[0\].*",
        values=r"(?s).* -> None",
        scenario="create a lease: label too long",
    ),
    Difference(
        "lease resource without a snapshotter",
        "containerd fails to store it, or does not look at it, and has no code for that",
        methods=r"Leases\.(Add|Delete)Resource",
        standard="UNKNOWN|OK",
        subject="INVALID_ARGUMENT",
        said="^$|bucket name required",
        scenario="(add to|take from) a lease: .*",
    ),
    Difference(
        "images of a lease",
        "leases keep images since containerd 2.0",
        methods=r"Leases\.(Add|Delete)Resource",
        standard="UNIMPLEMENTED",
        subject="OK",
        said="resource type images",
    ),
    Difference(
        "images made under a lease",
        "leases keep images since containerd 2.0",
        methods=r"Leases\.ListResources",
        fields=r"resources\[0\].*",
        values=r"None -> .*",
        scenario=r"(under a lease: image|add to a lease: image)",
    ),
    Difference(
        "making a namespace without one",
        "containerd makes it, and then fails to tell of it",
        methods=r"Namespaces\.(Create|Update|Delete)",
        standard="UNKNOWN",
        subject="OK",
        said="failed publishing event",
        extra_event=r"topic=/namespaces/create ",
        scenario="create a namespace: without a namespace in the header",
    ),
    Difference(
        "answer to an update of a namespace",
        "containerd's answer is empty",
        methods=r"Namespaces\.Update",
        fields=r"namespace\..*",
        values=r"None -> .*",
    ),
    Difference(
        "bad namespaces",
        "containerd finds it out too late to have a code for it",
        methods=r"Namespaces\.(Create|Update|Delete)",
        standard="UNKNOWN",
        subject="INVALID_ARGUMENT|NOT_FOUND",
        said="bucket name required|label key and value greater|namespace validation|failed publishing event",
    ),
    Difference(
        "updates of what cannot be a namespace",
        "containerd does nothing, and tells of it",
        methods=r"Namespaces\.Update",
        standard="OK",
        subject="INVALID_ARGUMENT",
        missing_event=r"topic=/namespaces/update ",
        scenario="update a namespace: (no request|not there, invalid name)|with(out)? an? .*|in an invalid .*",
    ),
    Difference(
        "snapshots without a name",
        "containerd fails to store them and has no code for that",
        methods=r"Snapshots\.(Prepare|View|Commit)",
        standard="UNKNOWN",
        subject="INVALID_ARGUMENT",
        said="bucket name required",
    ),
    Difference(
        "commit of nothing",
        "containerd finds no snapshotter in a namespace that has no snapshots; ours is the snapshot that is missing",
        methods=r"Snapshots\.Commit",
        standard="NOT_FOUND",
        subject="INVALID_ARGUMENT",
        said="can not find snapshotter",
        wording=True,
    ),
    Difference(
        "cleaning up",
        "snapshotters clean up when they are asked to since containerd 2.0",
        methods=r"Snapshots\.Cleanup",
        standard="UNIMPLEMENTED",
        subject="OK",
    ),
    Difference(
        "bad filters",
        "containerd knows that they are bad, and loses the code on the way",
        methods=r"(Snapshots\.List|Events\.Subscribe|Tasks\.Metrics)",
        standard="UNKNOWN",
        subject="INVALID_ARGUMENT",
        said="(?i)filter",
    ),
    Difference(
        "bad regular expressions",
        "a regular expression that cannot be compiled is refused; containerd takes it for one that nothing matches",
        methods=r".*\.List",
        standard="OK",
        subject="INVALID_ARGUMENT",
        scenario=r"filter: 'id~=.*",
    ),
    Difference(
        "name of the program",
        "each daemon tells its own version",
        methods=r"Version\.Version",
        fields="version|revision",
    ),
    Difference(
        "more of the server",
        "the daemon tells its pid and pid namespace since containerd 1.7",
        methods=r"Introspection\.Server",
        fields="pid|pidns",
        values=r"None -> .*",
    ),
    Difference(
        "more of a plugin",
        "a plugin is asked for more since containerd 2.0",
        methods=r"Introspection\.PluginInfo",
        standard="UNIMPLEMENTED",
        subject=".*",
    ),
    Difference(
        "compressed bytes",
        "the same layer is compressed to other bytes by another implementation of gzip",
        methods=r"Diff\.Diff",
        fields=r"diff\.(digest|size)",
        values=r"(?s)(sha256:|\d).*",
    ),
    Difference(
        "nonsense",
        "what cannot be decoded is the client's fault and not ours",
        methods=".*",
        standard="INTERNAL",
        subject="INVALID_ARGUMENT",
        said="unmarshal",
    ),
    Difference(
        "first of several faults",
        "of several things that are wrong with a call, each daemon tells the one that it finds first",
        methods=r"(Images\.Create|Snapshots\.Commit|Tasks\.Exec)",
        standard="INVALID_ARGUMENT|NOT_FOUND|FAILED_PRECONDITION",
        subject="INVALID_ARGUMENT|NOT_FOUND|FAILED_PRECONDITION",
        scenario="(without a namespace|with an empty request): .*",
    ),
    Difference(
        "no namespace",
        "containerd has the right error and loses its code on the way",
        methods=r"(Snapshots\.List|Tasks\.Metrics)",
        standard="UNKNOWN",
        subject="FAILED_PRECONDITION|INVALID_ARGUMENT",
        said="namespace is required|namespace validation|must match",
    ),
    Difference(
        "ids of leases",
        "each daemon makes up its own",
        methods=r"Leases\.Create",
        fields=r"lease\.id",
        scenario="with an empty request: .*",
    ),
    Difference(
        "the beginning of time",
        "an event of the first second of 1970 counts as one without a time",
        methods=r"Events\.Forward",
        standard="OK",
        subject="INVALID_ARGUMENT",
        scenario="forward an event: time of 1970",
        missing_event=r"topic=/a/b ",
    ),
    Difference(
        "what plugins need and offer",
        "our plugins need others than containerd's do, and offer what those of containerd 2 do",
        methods=r"Introspection\.Plugins",
        fields=r"plugins\[0\]\.(requires|exports|capabilities)\[.*\]",
    ),
    Difference(
        "layers that cannot be applied",
        "containerd has no code for what is wrong with a layer or with where it goes, or does not notice it",
        methods=r"Diff\.(Apply|Diff)",
        standard="UNKNOWN|OK",
        subject="UNIMPLEMENTED|DATA_LOSS|INVALID_ARGUMENT|FAILED_PRECONDITION",
        scenario="(apply|make) a layer: .*",
    ),
    Difference(
        "tasks that cannot be made",
        "containerd has no code for a container that cannot be started as its record says",
        methods=r"Tasks\.Create",
        standard="UNKNOWN",
        subject="INVALID_ARGUMENT|NOT_FOUND",
        said="failed to start shim",
    ),
    Difference(
        "processes that run",
        "the code that containerd 2 has for deleting what runs; 1.6 has none",
        methods=r"Tasks\.Delete(Process)?",
        standard="UNKNOWN",
        subject="FAILED_PRECONDITION",
        said="cannot delete a running process",
    ),
    Difference(
        "deleting what has no name",
        "containerd has no code for it where there were others to delete",
        methods=r"(Containers|Images|Leases)\.Delete",
        standard="UNKNOWN",
        subject="NOT_FOUND",
        said="incompatible value",
    ),
    Difference(
        "more of the health service",
        "the health service lists what it knows in newer versions of it",
        methods=r"Health\.List",
        standard="UNIMPLEMENTED",
        subject=".*",
    ),
)
