# SPDX-License-Identifier: Apache-2.0
"""Container logs to a syslog server: ``syslog://?syslog-address=tcp://logs.example:514&tag=web``."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, model_validator

from orlop import InitContext
from orlop.interfaces.log import LogDriver, log_driver
from orlop.plugin import ConfigPath
from orlop_sdk.logs.options import RelayConfig
from orlop_syslog.address import Address
from orlop_syslog.message import facility_code


def _address(text: str) -> str:
    return str(Address.parse(text))


def _facility(text: str) -> str:
    facility_code(text)
    return text


class SyslogConfig(RelayConfig):
    """Which server and how, beside what all such drivers have."""

    longest_line: ClassVar[int] = 60 << 10  # what a datagram holds

    syslog_address: Annotated[str, AfterValidator(_address)] = "unixgram:///dev/log"
    """Where to: unixgram:///path, udp://host:port, tcp://host:port or tcp+tls://host:port."""
    syslog_facility: Annotated[str, AfterValidator(_facility)] = "daemon"
    """The facility, by name or number."""
    syslog_format: Literal["rfc5424micro", "rfc5424", "rfc3164"] = "rfc5424micro"
    """The form of messages: RFC 5424 with microseconds, the same with seconds, or the older RFC 3164."""
    syslog_tls_ca_cert: ConfigPath = None
    """Certificates that a TLS server's own must be signed by; those of the host when unset."""
    syslog_tls_cert: ConfigPath = None
    """Certificate to show to a TLS server."""
    syslog_tls_key: ConfigPath = None
    """Its key."""
    syslog_tls_skip_verify: bool = False
    """Take any certificate of a TLS server."""

    @model_validator(mode="after")
    def _certificate_has_key(self) -> Self:
        if (self.syslog_tls_cert is None) != (self.syslog_tls_key is None):
            raise ValueError("syslog-tls-cert and syslog-tls-key belong together; give both or none")
        return self


@log_driver("syslog", config=SyslogConfig, exports={"schemes": "syslog"})
async def syslog(ctx: InitContext[SyslogConfig]) -> LogDriver:
    """Sends lines to a syslog server."""
    from orlop_syslog.driver import SyslogDriver

    return SyslogDriver(ctx.config, ctx.log)
