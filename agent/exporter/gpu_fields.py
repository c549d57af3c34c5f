"""Which families show one field of a GPU each."""

from contract.metrics import counter, gauge

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
        gauge(
            "fleetmedic_gpu_utilization_ratio",
            "Share of the driver's last sample period in which a kernel ran, 0..1; of this moment.",
        ),
        "utilization_ratio",
    ),
    (
        gauge(
            "fleetmedic_gpu_duty_cycle_ratio",
            "Share of time in which a kernel ran over the last ten seconds or so, 0..1.",
        ),
        "duty_cycle_ratio",
    ),
    (
        gauge("fleetmedic_gpu_memory_utilization_ratio", "Share of time memory was in use, 0..1."),
        "memory_utilization_ratio",
    ),
    (gauge("fleetmedic_gpu_memory_used_bytes", "Device memory in use."), "memory_used_bytes"),
    (gauge("fleetmedic_gpu_memory_size_bytes", "Device memory there is."), "memory_total_bytes"),
    (
        gauge(
            "fleetmedic_gpu_memory_reserved_bytes",
            "Device memory that the driver keeps for itself: neither in use nor free.",
        ),
        "memory_reserved_bytes",
    ),
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
    (
        counter(
            "fleetmedic_gpu_ecc_aggregate_corrected_total", "Corrected errors of the board's life."
        ),
        "ecc_corrected_aggregate_total",
    ),
    (
        counter(
            "fleetmedic_gpu_ecc_aggregate_uncorrected_total",
            "Uncorrected errors of the board's life.",
        ),
        "ecc_uncorrected_aggregate_total",
    ),
    (
        counter(
            "fleetmedic_gpu_ecc_sram_uncorrected_total",
            "Uncorrected errors in on-chip memory since the driver loaded.",
        ),
        "ecc_sram_uncorrected_total",
    ),
    (
        counter(
            "fleetmedic_gpu_remapped_rows_corrected_total",
            "Memory rows replaced after corrected errors.",
        ),
        "remapped_rows_corrected_total",
    ),
    (
        counter(
            "fleetmedic_gpu_remapped_rows_uncorrected_total",
            "Memory rows replaced after uncorrected errors.",
        ),
        "remapped_rows_uncorrected_total",
    ),
    (
        gauge("fleetmedic_gpu_remap_pending", "1 while a memory row waits for the next reset."),
        "remap_pending",
    ),
    (
        gauge("fleetmedic_gpu_remap_failed", "1 when a memory row could not be replaced."),
        "remap_failed",
    ),
    (
        counter(
            "fleetmedic_gpu_retired_pages_single_bit_total",
            "Memory pages retired after many corrected errors.",
        ),
        "retired_pages_single_bit_total",
    ),
    (
        counter(
            "fleetmedic_gpu_retired_pages_double_bit_total",
            "Memory pages retired after an uncorrected error.",
        ),
        "retired_pages_double_bit_total",
    ),
    (
        gauge(
            "fleetmedic_gpu_retirement_pending", "1 while a memory page waits for the next reset."
        ),
        "retirement_pending",
    ),
    (
        counter(
            "fleetmedic_gpu_power_violation_seconds_total",
            "Time in which the power limit held the clocks down, since the driver loaded.",
        ),
        "power_violation_seconds_total",
    ),
    (
        counter(
            "fleetmedic_gpu_thermal_violation_seconds_total",
            "Time in which heat held the clocks down, since the driver loaded.",
        ),
        "thermal_violation_seconds_total",
    ),
    (
        counter(
            "fleetmedic_gpu_hardware_slowdown_seconds_total",
            "Time in which the hardware slowed itself down, since the driver loaded.",
        ),
        "hardware_slowdown_seconds_total",
    ),
    (gauge("fleetmedic_gpu_pcie_generation", "PCIe generation in use."), "pcie_generation"),
    (gauge("fleetmedic_gpu_pcie_width", "PCIe lanes in use."), "pcie_width"),
    (
        counter("fleetmedic_gpu_pcie_replays_total", "PCIe packets sent again."),
        "pcie_replays_total",
    ),
    (
        gauge("fleetmedic_gpu_pcie_received_bytes_per_second", "Traffic from the host to the GPU."),
        "pcie_received_bytes_per_second",
    ),
    (
        gauge(
            "fleetmedic_gpu_pcie_transmitted_bytes_per_second", "Traffic from the GPU to the host."
        ),
        "pcie_transmitted_bytes_per_second",
    ),
    (
        gauge(
            "fleetmedic_gpu_nvlink_received_bytes_per_second", "Traffic received over all NVLinks."
        ),
        "nvlink_received_bytes_per_second",
    ),
    (
        gauge(
            "fleetmedic_gpu_nvlink_transmitted_bytes_per_second", "Traffic sent over all NVLinks."
        ),
        "nvlink_transmitted_bytes_per_second",
    ),
    (gauge("fleetmedic_gpu_memory_clock_hertz", "Clock of the memory."), "memory_clock_hertz"),
    (
        gauge("fleetmedic_gpu_performance_state", "0 fastest to 15 slowest."),
        "performance_state",
    ),
    (
        gauge(
            "fleetmedic_gpu_fabric_state",
            "NVSwitch fabric: 0 not supported, 1 not started, 2 in progress, 3 completed.",
        ),
        "fabric_state",
    ),
    (
        gauge(
            "fleetmedic_gpu_fabric_status", "NVML's code of the fabric registration; 0 is success."
        ),
        "fabric_status",
    ),
    (
        gauge("fleetmedic_gpu_mig_enabled", "1 while the GPU is divided into MIG instances."),
        "mig_enabled",
    ),
    (
        gauge(
            "fleetmedic_gpu_engine_active_ratio",
            "Share of time any engine was busy over the last ten samples, 0..1.",
        ),
        "engine_active_ratio",
    ),
    (
        gauge("fleetmedic_gpu_sm_active_ratio", "Share of the multiprocessors at work, 0..1."),
        "sm_active_ratio",
    ),
    (
        gauge("fleetmedic_gpu_sm_occupancy_ratio", "Share of the possible warps at work, 0..1."),
        "sm_occupancy_ratio",
    ),
    (
        gauge("fleetmedic_gpu_tensor_active_ratio", "Share of time in tensor operations, 0..1."),
        "tensor_active_ratio",
    ),
    (
        gauge("fleetmedic_gpu_dram_active_ratio", "Share of the memory's bandwidth in use, 0..1."),
        "dram_active_ratio",
    ),
)
"""Family and the field of ``Gpu`` that it shows; a field that was not measured has no sample."""
