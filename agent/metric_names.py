"""The metric families on the agent's page: data only. The dashboards and alerts are checked against them."""

from contract.metrics import counter, gauge

SNAPSHOT_TIME = gauge(
    "fleetmedic_snapshot_time_seconds", "Unix time at which these values were read."
)
NODE_INFO = gauge("fleetmedic_agent_info", "Identity of the node and its driver; always 1.")
SOURCE_STATE = gauge("fleetmedic_source_state", "1 for the state that each source of truth is in.")
FINDING = gauge("fleetmedic_finding", "1 for each finding now raised on this node.")
FINDING_SINCE = gauge(
    "fleetmedic_finding_since_time_seconds", "Unix time at which each finding was first seen."
)
XID_EVENTS = counter(
    "fleetmedic_xid_events_total", "XID events seen per code and GPU since the agent started."
)

GPU_INFO = gauge("fleetmedic_gpu_info", "Identity of each GPU; always 1.")
GPU_SEVERITY = gauge(
    "fleetmedic_gpu_worst_severity",
    "Worst finding on the GPU: 0 none, 10 info, 20 degraded, 30 critical, 40 fatal.",
)
GPU_LOST = gauge("fleetmedic_gpu_lost", "1 when the driver lists the GPU but cannot reach it.")
GPU_CLOCKS_HELD = gauge(
    "fleetmedic_gpu_clocks_held", "1 while the driver holds the clocks down for this reason."
)
GPU_FIELDS = (
    (gauge("fleetmedic_gpu_temperature_celsius", "Core temperature."), "temperature_celsius"),
    (
        gauge("fleetmedic_gpu_memory_temperature_celsius", "Memory temperature."),
        "memory_temperature_celsius",
    ),
    (
        gauge(
            "fleetmedic_gpu_slowdown_temperature_celsius", "Core temperature of hardware slowdown."
        ),
        "slowdown_temperature_celsius",
    ),
    (gauge("fleetmedic_gpu_power_watts", "Power drawn."), "power_watts"),
    (gauge("fleetmedic_gpu_power_limit_watts", "Power limit in force."), "power_limit_watts"),
    (
        counter("fleetmedic_gpu_energy_joules_total", "Energy used since the driver loaded."),
        "energy_joules_total",
    ),
    (
        gauge("fleetmedic_gpu_utilization_ratio", "Share of time in which a kernel ran, 0..1."),
        "utilization_ratio",
    ),
    (
        gauge("fleetmedic_gpu_memory_utilization_ratio", "Share of time memory was in use, 0..1."),
        "memory_utilization_ratio",
    ),
    (gauge("fleetmedic_gpu_memory_used_bytes", "Device memory in use."), "memory_used_bytes"),
    (gauge("fleetmedic_gpu_memory_size_bytes", "Device memory there is."), "memory_total_bytes"),
    (gauge("fleetmedic_gpu_sm_clock_hertz", "Clock of the multiprocessors."), "sm_clock_hertz"),
    (gauge("fleetmedic_gpu_processes", "Processes that hold the GPU."), "process_count"),
    (
        counter("fleetmedic_gpu_ecc_corrected_total", "Corrected errors since the driver loaded."),
        "ecc_corrected_total",
    ),
    (
        counter(
            "fleetmedic_gpu_ecc_uncorrected_total", "Uncorrected errors since the driver loaded."
        ),
        "ecc_uncorrected_total",
    ),
    (
        gauge(
            "fleetmedic_gpu_recovery_action",
            "What the driver asks for: 0 none, 1 reset, 2 reboot, 3 drain P2P, 4 drain and reset.",
        ),
        "recovery_action",
    ),
)
"""Family and the field of ``Gpu`` that it shows; a field that was not measured has no sample."""

CLOCKS_HELD_REASONS = (
    ("sw_power_cap", 0x04),
    ("hw_slowdown", 0x08),
    ("sync_boost", 0x10),
    ("sw_thermal", 0x20),
    ("hw_thermal", 0x40),
    ("hw_power_brake", 0x80),
)
"""The bits of NVML's mask that cost speed; idle and settings made by people are left out."""

RDMA_INFO = gauge("fleetmedic_rdma_port_info", "Link layer and states of each RDMA port; always 1.")
RDMA_ACTIVE = gauge("fleetmedic_rdma_port_active", "1 when the port's logical state is ACTIVE.")
RDMA_RATE = gauge("fleetmedic_rdma_port_rate_bytes_per_second", "Signalling rate of the port.")
RDMA_FIELDS = (
    (
        counter("fleetmedic_rdma_port_link_downed_total", "Times the link went down."),
        "link_downed_total",
    ),
    (
        counter("fleetmedic_rdma_port_received_bytes_total", "Bytes received."),
        "received_bytes_total",
    ),
    (
        counter("fleetmedic_rdma_port_transmitted_bytes_total", "Bytes sent."),
        "transmitted_bytes_total",
    ),
)

HOST_FIELDS = (
    (gauge("fleetmedic_host_cpus", "CPUs of the machine."), "cpu_count"),
    (
        gauge("fleetmedic_host_cpu_utilization_ratio", "CPU use over all cores, 0..1."),
        "cpu_utilization_ratio",
    ),
    (gauge("fleetmedic_host_memory_size_bytes", "Memory there is."), "memory_total_bytes"),
    (
        gauge("fleetmedic_host_memory_available_bytes", "Memory free to use."),
        "memory_available_bytes",
    ),
    (gauge("fleetmedic_host_load1", "Load average over one minute."), "load_average_1m"),
    (gauge("fleetmedic_host_uptime_seconds", "Time since boot."), "uptime_seconds"),
)
DISK_SIZE = gauge("fleetmedic_host_disk_size_bytes", "Size of each local file system.")
DISK_AVAILABLE = gauge("fleetmedic_host_disk_available_bytes", "Space left to unprivileged users.")

STATS_FIELDS = (
    (counter("fleetmedic_agent_reports_sent_total", "Reports sent."), "reports_sent"),
    (counter("fleetmedic_agent_reports_acked_total", "Reports acknowledged."), "reports_acked"),
    (
        counter("fleetmedic_agent_reconnects_total", "Times the stream was opened anew."),
        "reconnects",
    ),
    (
        counter("fleetmedic_agent_events_dropped_total", "Events lost to a full buffer."),
        "events_dropped",
    ),
    (counter("fleetmedic_agent_kmsg_lines_total", "Kernel log lines read."), "kmsg_lines"),
    (
        counter(
            "fleetmedic_agent_kmsg_overruns_total", "Times the kernel log outran us: lines lost."
        ),
        "kmsg_overruns",
    ),
    (
        counter("fleetmedic_agent_kmsg_malformed_total", "Kernel log lines not understood."),
        "kmsg_malformed",
    ),
    (
        counter("fleetmedic_agent_directives_refused_total", "Directives not carried out."),
        "directives_refused",
    ),
    (
        counter("fleetmedic_agent_sample_seconds_total", "Time spent in reading the sources."),
        "sample_seconds",
    ),
    (counter("fleetmedic_agent_check_seconds_total", "Time spent in the checks."), "check_seconds"),
)
