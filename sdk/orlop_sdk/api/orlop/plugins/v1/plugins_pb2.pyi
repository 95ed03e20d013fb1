from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Plugin(_message.Message):
    __slots__ = ("type", "id", "state", "reason", "cause", "origin", "requires", "platforms", "capabilities", "exports", "seconds")
    class ExportsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    REQUIRES_FIELD_NUMBER: _ClassVar[int]
    PLATFORMS_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    EXPORTS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    type: str
    id: str
    state: str
    reason: str
    cause: str
    origin: str
    requires: _containers.RepeatedScalarFieldContainer[str]
    platforms: _containers.RepeatedScalarFieldContainer[str]
    capabilities: _containers.RepeatedScalarFieldContainer[str]
    exports: _containers.ScalarMap[str, str]
    seconds: float
    def __init__(self, type: _Optional[str] = ..., id: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., cause: _Optional[str] = ..., origin: _Optional[str] = ..., requires: _Optional[_Iterable[str]] = ..., platforms: _Optional[_Iterable[str]] = ..., capabilities: _Optional[_Iterable[str]] = ..., exports: _Optional[_Mapping[str, str]] = ..., seconds: _Optional[float] = ...) -> None: ...

class Change(_message.Message):
    __slots__ = ("started", "stopped", "restarted", "kept", "settings", "warnings", "saved")
    class KeptEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Users
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Users, _Mapping[str, object]]] = ...) -> None: ...
    STARTED_FIELD_NUMBER: _ClassVar[int]
    STOPPED_FIELD_NUMBER: _ClassVar[int]
    RESTARTED_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    SAVED_FIELD_NUMBER: _ClassVar[int]
    started: _containers.RepeatedScalarFieldContainer[str]
    stopped: _containers.RepeatedScalarFieldContainer[str]
    restarted: _containers.RepeatedScalarFieldContainer[str]
    kept: _containers.MessageMap[str, Users]
    settings: _containers.RepeatedScalarFieldContainer[str]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    saved: str
    def __init__(self, started: _Optional[_Iterable[str]] = ..., stopped: _Optional[_Iterable[str]] = ..., restarted: _Optional[_Iterable[str]] = ..., kept: _Optional[_Mapping[str, Users]] = ..., settings: _Optional[_Iterable[str]] = ..., warnings: _Optional[_Iterable[str]] = ..., saved: _Optional[str] = ...) -> None: ...

class Users(_message.Message):
    __slots__ = ("users",)
    USERS_FIELD_NUMBER: _ClassVar[int]
    users: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, users: _Optional[_Iterable[str]] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("filters",)
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    filters: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, filters: _Optional[_Iterable[str]] = ...) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("plugins",)
    PLUGINS_FIELD_NUMBER: _ClassVar[int]
    plugins: _containers.RepeatedCompositeFieldContainer[Plugin]
    def __init__(self, plugins: _Optional[_Iterable[_Union[Plugin, _Mapping[str, object]]]] = ...) -> None: ...

class EnableRequest(_message.Message):
    __slots__ = ("uri", "save")
    URI_FIELD_NUMBER: _ClassVar[int]
    SAVE_FIELD_NUMBER: _ClassVar[int]
    uri: str
    save: bool
    def __init__(self, uri: _Optional[str] = ..., save: _Optional[bool] = ...) -> None: ...

class DisableRequest(_message.Message):
    __slots__ = ("uri", "by", "cascade", "force", "save")
    URI_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    CASCADE_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    SAVE_FIELD_NUMBER: _ClassVar[int]
    uri: str
    by: str
    cascade: bool
    force: bool
    save: bool
    def __init__(self, uri: _Optional[str] = ..., by: _Optional[str] = ..., cascade: _Optional[bool] = ..., force: _Optional[bool] = ..., save: _Optional[bool] = ...) -> None: ...

class ReloadRequest(_message.Message):
    __slots__ = ("uri", "config", "cascade", "force", "save")
    URI_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    CASCADE_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    SAVE_FIELD_NUMBER: _ClassVar[int]
    uri: str
    config: str
    cascade: bool
    force: bool
    save: bool
    def __init__(self, uri: _Optional[str] = ..., config: _Optional[str] = ..., cascade: _Optional[bool] = ..., force: _Optional[bool] = ..., save: _Optional[bool] = ...) -> None: ...

class AddRequest(_message.Message):
    __slots__ = ("uri", "target", "proxy", "config", "save")
    URI_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    PROXY_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    SAVE_FIELD_NUMBER: _ClassVar[int]
    uri: str
    target: str
    proxy: str
    config: str
    save: bool
    def __init__(self, uri: _Optional[str] = ..., target: _Optional[str] = ..., proxy: _Optional[str] = ..., config: _Optional[str] = ..., save: _Optional[bool] = ...) -> None: ...

class RemoveRequest(_message.Message):
    __slots__ = ("uri", "cascade", "force", "save")
    URI_FIELD_NUMBER: _ClassVar[int]
    CASCADE_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    SAVE_FIELD_NUMBER: _ClassVar[int]
    uri: str
    cascade: bool
    force: bool
    save: bool
    def __init__(self, uri: _Optional[str] = ..., cascade: _Optional[bool] = ..., force: _Optional[bool] = ..., save: _Optional[bool] = ...) -> None: ...

class ReloadConfigRequest(_message.Message):
    __slots__ = ("dry_run", "force")
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    dry_run: bool
    force: bool
    def __init__(self, dry_run: _Optional[bool] = ..., force: _Optional[bool] = ...) -> None: ...
