"""The host families of the agent's page."""

from agent.exporter.fields import write_field
from agent.snapshot import Host
from contract.metrics import Page, counter, gauge, labels

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
    (gauge("fleetmedic_host_swap_size_bytes", "Swap there is."), "swap_total_bytes"),
    (gauge("fleetmedic_host_swap_free_bytes", "Swap free to use."), "swap_free_bytes"),
    (
        counter("fleetmedic_host_oom_kills_total", "Processes killed for want of memory."),
        "oom_kills_total",
    ),
    (gauge("fleetmedic_host_open_files", "Open files."), "open_files"),
    (gauge("fleetmedic_host_open_files_limit", "Open files there may be."), "open_files_max"),
    (gauge("fleetmedic_host_threads", "Threads."), "threads"),
    (gauge("fleetmedic_host_threads_limit", "Threads there may be."), "threads_max"),
    (gauge("fleetmedic_host_processes", "Processes."), "processes"),
    (
        gauge("fleetmedic_host_zombie_processes", "Processes that ended and were not asked how."),
        "zombie_processes",
    ),
    (
        gauge("fleetmedic_host_clock_offset_seconds", "What the kernel still has to correct."),
        "clock_offset_seconds",
    ),
    (
        gauge(
            "fleetmedic_host_clock_estimated_error_seconds",
            "How wrong the clock may be, by whoever keeps it in time.",
        ),
        "clock_estimated_error_seconds",
    ),
)
CLOCK_SYNCHRONISED = gauge(
    "fleetmedic_host_clock_synchronised", "1 when something keeps the clock in time."
)
BLOCKED = gauge(
    "fleetmedic_host_blocked_processes",
    "Processes that wait in the kernel, seen so in two scans or more; 32 at most.",
)
MEMORY_FIELDS = (
    (
        counter(
            "fleetmedic_host_memory_corrected_errors_total",
            "Errors that each memory controller corrected, since its driver loaded.",
        ),
        "corrected_errors_total",
    ),
    (
        counter(
            "fleetmedic_host_memory_uncorrected_errors_total",
            "Errors that each memory controller could not correct, since its driver loaded.",
        ),
        "uncorrected_errors_total",
    ),
)
DISK_FIELDS = (
    (gauge("fleetmedic_host_disk_size_bytes", "Size of each local file system."), "total_bytes"),
    (
        gauge("fleetmedic_host_disk_available_bytes", "Space left to unprivileged users."),
        "available_bytes",
    ),
    (gauge("fleetmedic_host_disk_inodes", "Files each file system can hold."), "total_inodes"),
    (
        gauge("fleetmedic_host_disk_inodes_available", "Files that may still be made."),
        "available_inodes",
    ),
)
DISK_READ_ONLY = gauge("fleetmedic_host_disk_read_only", "1 when it cannot be written to.")
DISK_READABLE = gauge(
    "fleetmedic_host_disk_readable", "0 when a watched file system is stuck, failing or missing."
)


def write_host(page: Page, node: str, host: Host) -> None:
    """The machine itself."""
    who = labels(node=node)
    for metric, field in HOST_FIELDS:
        write_field(page, metric, field, [(who, host)])
    if host.clock_synchronised is not None:
        page.one(CLOCK_SYNCHRONISED, int(host.clock_synchronised), who)
    if host.processes is not None:
        page.one(BLOCKED, len(host.blocked_processes), who)
    controllers = [
        (labels(node=node, controller=each.name), each) for each in host.memory_controllers
    ]
    for metric, field in MEMORY_FIELDS:
        write_field(page, metric, field, controllers)
    _write_disks(page, node, host)


def _write_disks(page: Page, node: str, host: Host) -> None:
    named = [(labels(node=node, mount_point=disk.mount_point), disk) for disk in host.disks]
    for metric, field in DISK_FIELDS:
        write_field(page, metric, field, named)
    page.family(
        DISK_READ_ONLY,
        [(who, int(disk.read_only)) for who, disk in named if disk.read_only is not None],
    )
    unreadable = [labels(node=node, mount_point=each.mount_point) for each in host.unreadable_disks]
    page.family(DISK_READABLE, [(who, 1) for who, _ in named] + [(who, 0) for who in unreadable])
