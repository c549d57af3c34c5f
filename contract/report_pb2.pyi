from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Severity(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SEVERITY_UNSPECIFIED: _ClassVar[Severity]
    SEVERITY_INFO: _ClassVar[Severity]
    SEVERITY_DEGRADED: _ClassVar[Severity]
    SEVERITY_CRITICAL: _ClassVar[Severity]
    SEVERITY_FATAL: _ClassVar[Severity]

class Action(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ACTION_NONE: _ClassVar[Action]
    ACTION_RESTART_WORKLOAD: _ClassVar[Action]
    ACTION_RESET_DEVICE: _ClassVar[Action]
    ACTION_RESTART_SERVICE: _ClassVar[Action]
    ACTION_REBOOT_NODE: _ClassVar[Action]
    ACTION_REPLACE_HARDWARE: _ClassVar[Action]

class Domain(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DOMAIN_UNSPECIFIED: _ClassVar[Domain]
    DOMAIN_HOST: _ClassVar[Domain]
    DOMAIN_GPU: _ClassVar[Domain]
    DOMAIN_NPU: _ClassVar[Domain]
    DOMAIN_RDMA: _ClassVar[Domain]
    DOMAIN_STORAGE: _ClassVar[Domain]

class SourceState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SOURCE_STATE_UNSPECIFIED: _ClassVar[SourceState]
    SOURCE_STATE_OK: _ClassVar[SourceState]
    SOURCE_STATE_ABSENT: _ClassVar[SourceState]
    SOURCE_STATE_FAILING: _ClassVar[SourceState]
    SOURCE_STATE_STUCK: _ClassVar[SourceState]

class OutcomeState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_STATE_UNSPECIFIED: _ClassVar[OutcomeState]
    OUTCOME_STATE_RUNNING: _ClassVar[OutcomeState]
    OUTCOME_STATE_FAILED: _ClassVar[OutcomeState]
    OUTCOME_STATE_REFUSED: _ClassVar[OutcomeState]
    OUTCOME_STATE_DONE: _ClassVar[OutcomeState]
SEVERITY_UNSPECIFIED: Severity
SEVERITY_INFO: Severity
SEVERITY_DEGRADED: Severity
SEVERITY_CRITICAL: Severity
SEVERITY_FATAL: Severity
ACTION_NONE: Action
ACTION_RESTART_WORKLOAD: Action
ACTION_RESET_DEVICE: Action
ACTION_RESTART_SERVICE: Action
ACTION_REBOOT_NODE: Action
ACTION_REPLACE_HARDWARE: Action
DOMAIN_UNSPECIFIED: Domain
DOMAIN_HOST: Domain
DOMAIN_GPU: Domain
DOMAIN_NPU: Domain
DOMAIN_RDMA: Domain
DOMAIN_STORAGE: Domain
SOURCE_STATE_UNSPECIFIED: SourceState
SOURCE_STATE_OK: SourceState
SOURCE_STATE_ABSENT: SourceState
SOURCE_STATE_FAILING: SourceState
SOURCE_STATE_STUCK: SourceState
OUTCOME_STATE_UNSPECIFIED: OutcomeState
OUTCOME_STATE_RUNNING: OutcomeState
OUTCOME_STATE_FAILED: OutcomeState
OUTCOME_STATE_REFUSED: OutcomeState
OUTCOME_STATE_DONE: OutcomeState

class NodeReport(_message.Message):
    __slots__ = ("protocol_version", "sequence", "node", "boot_id", "agent_version", "taken_time_seconds", "urgent", "findings", "sources", "gpus", "rdma_ports", "host", "events", "events_dropped_total", "driver_version", "npus", "outcomes", "repairs", "holders")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    TAKEN_TIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    URGENT_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    RDMA_PORTS_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_DROPPED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    DRIVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    NPUS_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    REPAIRS_FIELD_NUMBER: _ClassVar[int]
    HOLDERS_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    sequence: int
    node: str
    boot_id: str
    agent_version: str
    taken_time_seconds: float
    urgent: bool
    findings: _containers.RepeatedCompositeFieldContainer[Finding]
    sources: _containers.RepeatedCompositeFieldContainer[SourceStatus]
    gpus: _containers.RepeatedCompositeFieldContainer[Gpu]
    rdma_ports: _containers.RepeatedCompositeFieldContainer[RdmaPort]
    host: Host
    events: _containers.RepeatedCompositeFieldContainer[Event]
    events_dropped_total: int
    driver_version: str
    npus: _containers.RepeatedCompositeFieldContainer[Npu]
    outcomes: _containers.RepeatedCompositeFieldContainer[DirectiveOutcome]
    repairs: _containers.RepeatedScalarFieldContainer[str]
    holders: _containers.RepeatedCompositeFieldContainer[Holders]
    def __init__(self, protocol_version: _Optional[int] = ..., sequence: _Optional[int] = ..., node: _Optional[str] = ..., boot_id: _Optional[str] = ..., agent_version: _Optional[str] = ..., taken_time_seconds: _Optional[float] = ..., urgent: _Optional[bool] = ..., findings: _Optional[_Iterable[_Union[Finding, _Mapping]]] = ..., sources: _Optional[_Iterable[_Union[SourceStatus, _Mapping]]] = ..., gpus: _Optional[_Iterable[_Union[Gpu, _Mapping]]] = ..., rdma_ports: _Optional[_Iterable[_Union[RdmaPort, _Mapping]]] = ..., host: _Optional[_Union[Host, _Mapping]] = ..., events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ..., events_dropped_total: _Optional[int] = ..., driver_version: _Optional[str] = ..., npus: _Optional[_Iterable[_Union[Npu, _Mapping]]] = ..., outcomes: _Optional[_Iterable[_Union[DirectiveOutcome, _Mapping]]] = ..., repairs: _Optional[_Iterable[str]] = ..., holders: _Optional[_Iterable[_Union[Holders, _Mapping]]] = ...) -> None: ...

class Holders(_message.Message):
    __slots__ = ("subject", "pods")
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    PODS_FIELD_NUMBER: _ClassVar[int]
    subject: str
    pods: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, subject: _Optional[str] = ..., pods: _Optional[_Iterable[str]] = ...) -> None: ...

class Finding(_message.Message):
    __slots__ = ("code", "subject", "severity", "action", "evidence", "since_time_seconds", "last_seen_time_seconds", "count", "domain", "clears")
    CODE_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    SINCE_TIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_TIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_FIELD_NUMBER: _ClassVar[int]
    CLEARS_FIELD_NUMBER: _ClassVar[int]
    code: str
    subject: str
    severity: Severity
    action: Action
    evidence: str
    since_time_seconds: float
    last_seen_time_seconds: float
    count: int
    domain: Domain
    clears: str
    def __init__(self, code: _Optional[str] = ..., subject: _Optional[str] = ..., severity: _Optional[_Union[Severity, str]] = ..., action: _Optional[_Union[Action, str]] = ..., evidence: _Optional[str] = ..., since_time_seconds: _Optional[float] = ..., last_seen_time_seconds: _Optional[float] = ..., count: _Optional[int] = ..., domain: _Optional[_Union[Domain, str]] = ..., clears: _Optional[str] = ...) -> None: ...

class SourceStatus(_message.Message):
    __slots__ = ("name", "state", "reason", "since_time_seconds")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SINCE_TIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: SourceState
    reason: str
    since_time_seconds: float
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[SourceState, str]] = ..., reason: _Optional[str] = ..., since_time_seconds: _Optional[float] = ...) -> None: ...

class Gpu(_message.Message):
    __slots__ = ("uuid", "pci_bus_id", "index", "model", "lost", "temperature_celsius", "power_watts", "power_limit_watts", "utilization_ratio", "memory_used_bytes", "memory_total_bytes", "memory_utilization_ratio", "process_count", "sm_clock_hertz", "ecc_uncorrected_total", "ecc_corrected_total", "recovery_action", "memory_temperature_celsius", "serial", "energy_joules_total", "clocks_event_reasons", "sm_active_ratio", "tensor_active_ratio", "dram_active_ratio", "duty_cycle_ratio")
    UUID_FIELD_NUMBER: _ClassVar[int]
    PCI_BUS_ID_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_CELSIUS_FIELD_NUMBER: _ClassVar[int]
    POWER_WATTS_FIELD_NUMBER: _ClassVar[int]
    POWER_LIMIT_WATTS_FIELD_NUMBER: _ClassVar[int]
    UTILIZATION_RATIO_FIELD_NUMBER: _ClassVar[int]
    MEMORY_USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_UTILIZATION_RATIO_FIELD_NUMBER: _ClassVar[int]
    PROCESS_COUNT_FIELD_NUMBER: _ClassVar[int]
    SM_CLOCK_HERTZ_FIELD_NUMBER: _ClassVar[int]
    ECC_UNCORRECTED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    ECC_CORRECTED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    RECOVERY_ACTION_FIELD_NUMBER: _ClassVar[int]
    MEMORY_TEMPERATURE_CELSIUS_FIELD_NUMBER: _ClassVar[int]
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    ENERGY_JOULES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    CLOCKS_EVENT_REASONS_FIELD_NUMBER: _ClassVar[int]
    SM_ACTIVE_RATIO_FIELD_NUMBER: _ClassVar[int]
    TENSOR_ACTIVE_RATIO_FIELD_NUMBER: _ClassVar[int]
    DRAM_ACTIVE_RATIO_FIELD_NUMBER: _ClassVar[int]
    DUTY_CYCLE_RATIO_FIELD_NUMBER: _ClassVar[int]
    uuid: str
    pci_bus_id: str
    index: int
    model: str
    lost: bool
    temperature_celsius: float
    power_watts: float
    power_limit_watts: float
    utilization_ratio: float
    memory_used_bytes: int
    memory_total_bytes: int
    memory_utilization_ratio: float
    process_count: int
    sm_clock_hertz: float
    ecc_uncorrected_total: int
    ecc_corrected_total: int
    recovery_action: int
    memory_temperature_celsius: float
    serial: str
    energy_joules_total: float
    clocks_event_reasons: int
    sm_active_ratio: float
    tensor_active_ratio: float
    dram_active_ratio: float
    duty_cycle_ratio: float
    def __init__(self, uuid: _Optional[str] = ..., pci_bus_id: _Optional[str] = ..., index: _Optional[int] = ..., model: _Optional[str] = ..., lost: _Optional[bool] = ..., temperature_celsius: _Optional[float] = ..., power_watts: _Optional[float] = ..., power_limit_watts: _Optional[float] = ..., utilization_ratio: _Optional[float] = ..., memory_used_bytes: _Optional[int] = ..., memory_total_bytes: _Optional[int] = ..., memory_utilization_ratio: _Optional[float] = ..., process_count: _Optional[int] = ..., sm_clock_hertz: _Optional[float] = ..., ecc_uncorrected_total: _Optional[int] = ..., ecc_corrected_total: _Optional[int] = ..., recovery_action: _Optional[int] = ..., memory_temperature_celsius: _Optional[float] = ..., serial: _Optional[str] = ..., energy_joules_total: _Optional[float] = ..., clocks_event_reasons: _Optional[int] = ..., sm_active_ratio: _Optional[float] = ..., tensor_active_ratio: _Optional[float] = ..., dram_active_ratio: _Optional[float] = ..., duty_cycle_ratio: _Optional[float] = ...) -> None: ...

class Npu(_message.Message):
    __slots__ = ("index", "card", "chip", "model", "pci_bus_id", "temperature_celsius", "power_watts", "utilization_ratio", "memory_used_bytes", "memory_total_bytes", "health")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    CARD_FIELD_NUMBER: _ClassVar[int]
    CHIP_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PCI_BUS_ID_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_CELSIUS_FIELD_NUMBER: _ClassVar[int]
    POWER_WATTS_FIELD_NUMBER: _ClassVar[int]
    UTILIZATION_RATIO_FIELD_NUMBER: _ClassVar[int]
    MEMORY_USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    index: int
    card: int
    chip: int
    model: str
    pci_bus_id: str
    temperature_celsius: float
    power_watts: float
    utilization_ratio: float
    memory_used_bytes: int
    memory_total_bytes: int
    health: int
    def __init__(self, index: _Optional[int] = ..., card: _Optional[int] = ..., chip: _Optional[int] = ..., model: _Optional[str] = ..., pci_bus_id: _Optional[str] = ..., temperature_celsius: _Optional[float] = ..., power_watts: _Optional[float] = ..., utilization_ratio: _Optional[float] = ..., memory_used_bytes: _Optional[int] = ..., memory_total_bytes: _Optional[int] = ..., health: _Optional[int] = ...) -> None: ...

class RdmaPort(_message.Message):
    __slots__ = ("device", "port", "link_layer", "state", "physical_state", "rate_bits_per_second", "link_downed_total", "received_bytes_total", "transmitted_bytes_total")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    LINK_LAYER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PHYSICAL_STATE_FIELD_NUMBER: _ClassVar[int]
    RATE_BITS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    LINK_DOWNED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    TRANSMITTED_BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    device: str
    port: int
    link_layer: str
    state: str
    physical_state: str
    rate_bits_per_second: float
    link_downed_total: int
    received_bytes_total: int
    transmitted_bytes_total: int
    def __init__(self, device: _Optional[str] = ..., port: _Optional[int] = ..., link_layer: _Optional[str] = ..., state: _Optional[str] = ..., physical_state: _Optional[str] = ..., rate_bits_per_second: _Optional[float] = ..., link_downed_total: _Optional[int] = ..., received_bytes_total: _Optional[int] = ..., transmitted_bytes_total: _Optional[int] = ...) -> None: ...

class Host(_message.Message):
    __slots__ = ("cpu_utilization_ratio", "memory_total_bytes", "memory_available_bytes", "load_average_1m", "uptime_seconds", "disks", "cpu_count")
    CPU_UTILIZATION_RATIO_FIELD_NUMBER: _ClassVar[int]
    MEMORY_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_AVAILABLE_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOAD_AVERAGE_1M_FIELD_NUMBER: _ClassVar[int]
    UPTIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DISKS_FIELD_NUMBER: _ClassVar[int]
    CPU_COUNT_FIELD_NUMBER: _ClassVar[int]
    cpu_utilization_ratio: float
    memory_total_bytes: int
    memory_available_bytes: int
    load_average_1m: float
    uptime_seconds: float
    disks: _containers.RepeatedCompositeFieldContainer[Disk]
    cpu_count: int
    def __init__(self, cpu_utilization_ratio: _Optional[float] = ..., memory_total_bytes: _Optional[int] = ..., memory_available_bytes: _Optional[int] = ..., load_average_1m: _Optional[float] = ..., uptime_seconds: _Optional[float] = ..., disks: _Optional[_Iterable[_Union[Disk, _Mapping]]] = ..., cpu_count: _Optional[int] = ...) -> None: ...

class Disk(_message.Message):
    __slots__ = ("mount_point", "total_bytes", "available_bytes")
    MOUNT_POINT_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_BYTES_FIELD_NUMBER: _ClassVar[int]
    mount_point: str
    total_bytes: int
    available_bytes: int
    def __init__(self, mount_point: _Optional[str] = ..., total_bytes: _Optional[int] = ..., available_bytes: _Optional[int] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("id", "time_seconds", "kind", "subject", "message", "code", "finding", "count")
    ID_FIELD_NUMBER: _ClassVar[int]
    TIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    FINDING_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    id: str
    time_seconds: float
    kind: str
    subject: str
    message: str
    code: int
    finding: str
    count: int
    def __init__(self, id: _Optional[str] = ..., time_seconds: _Optional[float] = ..., kind: _Optional[str] = ..., subject: _Optional[str] = ..., message: _Optional[str] = ..., code: _Optional[int] = ..., finding: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class Downstream(_message.Message):
    __slots__ = ("ack", "directive")
    ACK_FIELD_NUMBER: _ClassVar[int]
    DIRECTIVE_FIELD_NUMBER: _ClassVar[int]
    ack: Ack
    directive: SignedDirective
    def __init__(self, ack: _Optional[_Union[Ack, _Mapping]] = ..., directive: _Optional[_Union[SignedDirective, _Mapping]] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("sequence", "refused")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    refused: str
    def __init__(self, sequence: _Optional[int] = ..., refused: _Optional[str] = ...) -> None: ...

class SignedDirective(_message.Message):
    __slots__ = ("directive", "signature")
    DIRECTIVE_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    directive: bytes
    signature: bytes
    def __init__(self, directive: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Directive(_message.Message):
    __slots__ = ("id", "kind", "subject", "code", "expires_time_seconds", "reason", "node", "issued_time_seconds", "boot_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_TIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    ISSUED_TIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    kind: str
    subject: str
    code: str
    expires_time_seconds: float
    reason: str
    node: str
    issued_time_seconds: float
    boot_id: str
    def __init__(self, id: _Optional[str] = ..., kind: _Optional[str] = ..., subject: _Optional[str] = ..., code: _Optional[str] = ..., expires_time_seconds: _Optional[float] = ..., reason: _Optional[str] = ..., node: _Optional[str] = ..., issued_time_seconds: _Optional[float] = ..., boot_id: _Optional[str] = ...) -> None: ...

class DirectiveOutcome(_message.Message):
    __slots__ = ("id", "kind", "state", "output", "evidence", "started_time_seconds", "finished_time_seconds", "subject")
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    STARTED_TIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_TIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    id: str
    kind: str
    state: OutcomeState
    output: str
    evidence: str
    started_time_seconds: float
    finished_time_seconds: float
    subject: str
    def __init__(self, id: _Optional[str] = ..., kind: _Optional[str] = ..., state: _Optional[_Union[OutcomeState, str]] = ..., output: _Optional[str] = ..., evidence: _Optional[str] = ..., started_time_seconds: _Optional[float] = ..., finished_time_seconds: _Optional[float] = ..., subject: _Optional[str] = ...) -> None: ...
