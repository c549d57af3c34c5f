"""Kernel-log lines, as the kernel writes them, for every code that a pattern raises: all shapes that we know.

Written after the kernel's own formats (the file stands in the code's row), not recorded.
"""

LINES: dict[str, list[str]] = {
    "oom-kill-workload": [
        "Memory cgroup out of memory: Killed process 71234 (python3) total-vm:104857600kB, anon-rss:67108864kB, file-rss:0kB, shmem-rss:0kB, UID:1000 pgtables:131072kB oom_score_adj:995",
        "Memory cgroup out of memory: Killed process 9 (NVRM: Xid) total-vm:1kB, anon-rss:1kB, file-rss:0kB",
    ],
    "oom-kill-host": [
        "Out of memory: Killed process 4711 (pt_main_thread) total-vm:2147483648kB, anon-rss:1073741824kB, file-rss:0kB, shmem-rss:0kB, UID:0 pgtables:2097152kB oom_score_adj:1000",
        "Out of memory (oom_kill_allocating_task): Killed process 4711 (cc1plus) total-vm:1kB",
    ],
    "memory-page-poisoned": [
        "Memory failure: 0x12a4f3: recovery action for dirty LRU page: Recovered",
        "Memory failure: 0x12a4f3: Sending SIGBUS to python3:4711 due to hardware memory corruption",
        "Memory failure: 0x12a4f3: Killing python3:4711 due to hardware memory corruption",
    ],
    "memory-uncorrected-error": [
        "EDAC MC2: 1 UE memory read error on CPU_SrcID#1_MC#0_Chan#1_DIMM#0 (channel:1 slot:0 page:0x12a4f3 offset:0x0 grain:32)",
    ],
    "memory-corrected-error": [
        "EDAC MC0: 1 CE memory read error on CPU_SrcID#0_MC#0_Chan#0_DIMM#0 (channel:0 slot:0 page:0x1a offset:0x40 grain:32 syndrome:0x0)",
        "EDAC MC11: 128 CE memory scrubbing error on CPU_SrcID#1_MC#3_Chan#1_DIMM#0",
    ],
    "task-hung-nvidia": [
        "INFO: task nvidia-smi:31337 blocked for more than 120 seconds.",
        "INFO: task nv_queue:1711 blocked for more than 241 seconds.",
        "INFO: task irq/512-nvidia:2001 blocked in I/O wait for more than 122 seconds.",
        "INFO: task UVM GPU1 BH:2040 blocked for more than 120 seconds.",
    ],
    "task-hung": [
        "INFO: task jfsmount:136986 blocked for more than 120 seconds.",
        "INFO: task kworker/u385:2+flush-0:52:88123 blocked for more than 120 seconds.",
        "INFO: task python3:4711 blocked in I/O wait for more than 122 seconds.",
    ],
    "soft-lockup": [
        "watchdog: BUG: soft lockup - CPU#18 stuck for 27s! [python3:2254956]",
        "NMI watchdog: BUG: soft lockup - CPU#3 stuck for 22s! [kworker/3:1:1812]",
    ],
    "rcu-stall": [
        "rcu: INFO: rcu_sched self-detected stall on CPU",
        "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
        "INFO: rcu_sched self-detected stall on CPU { 12}  (t=60000 jiffies g=1 c=0 q=0)",
        "rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 7-.... } 21 jiffies s: 1325 root: 0x0/.",
    ],
    "hard-lockup": [
        "watchdog: Watchdog detected hard LOCKUP on cpu 41",
        "NMI watchdog: Watchdog detected hard LOCKUP on cpu 3",
        "watchdog: CPU41: Watchdog detected hard LOCKUP on cpu 41",
    ],
    "kernel-oops": [
        "BUG: kernel NULL pointer dereference, address: 0000000000000018",
        "BUG: unable to handle page fault for address: ffffb3c1c0a3d000",
        "BUG: unable to handle kernel NULL pointer dereference at 0000000000000008",
        "BUG: Bad page state in process python3  pfn:12a4f3",
        "Unable to handle kernel paging request at virtual address ffff800012345678",
        "Oops: 0000 [#1] PREEMPT SMP NOPTI",
        "Internal error: Oops: 0000000096000004 [#1] SMP",
        "general protection fault, probably for non-canonical address 0xdead000000000108: 0000 [#1] SMP PTI",
        "Oops: general protection fault, probably for non-canonical address 0xdead000000000108: 0000 [#2] SMP",
        "invalid opcode: 0000 [#1] SMP NOPTI",
        "divide error: 0000 [#1] SMP PTI",
        "kernel BUG at fs/ext4/inode.c:2731!",
    ],
    "kernel-panic": [
        "Kernel panic - not syncing: Fatal exception in interrupt",
        "Kernel panic - not syncing: Out of memory: system-wide panic_on_oom is enabled",
    ],
    "nmi-unknown": ["Uhhuh. NMI received for unknown reason 2d on CPU 0."],
    "cpu-throttled": [
        "mce: CPU12: Package temperature above threshold, cpu clock throttled (total events = 41)",
        "CPU3: Core temperature is above threshold, cpu clock is throttled (total events = 1)",
    ],
    "clocksource-unstable": [
        "clocksource: timekeeping watchdog on CPU37: Marking clocksource 'tsc' as unstable because the skew is too large:",
        "clocksource: timekeeping watchdog: Marking clocksource 'tsc' as unstable because the skew is too large:",
        "tsc: Marking TSC unstable due to clocksource watchdog",
    ],
    "machine-check-fatal": [
        "mce: [Hardware Error]: CPU 24: Machine Check Exception: 5 Bank 7: be00000001010090",
        "mce: Uncorrected hardware memory error in user-access at 12a4f3c0",
        "[Hardware Error]: Uncorrected, software restartable error.",
        "[Hardware Error]: System Fatal error.",
    ],
    "machine-check-corrected": [
        "mce: [Hardware Error]: Machine check events logged",
        "mce: [Hardware Error]: CPU 0: Machine Check: 0 Bank 5: be00000000800400",
        "[Hardware Error]: Corrected error, no action required.",
        "[Hardware Error]: Deferred error, no action required.",
    ],
    "hardware-error-fatal": ["{3}[Hardware Error]: event severity: fatal"],
    "hardware-error-recoverable": ["{1}[Hardware Error]: event severity: recoverable"],
    "hardware-error-corrected": ["{812}[Hardware Error]: event severity: corrected"],
    "hardware-error-last-boot": [
        "[Hardware Error]: event severity: fatal",
        "BERT: [Hardware Error]: event severity: fatal",
    ],
    "aer-fatal": [
        "nvidia 0000:3b:00.0: PCIe Bus Error: severity=Uncorrected (Fatal), type=Transaction Layer, (Receiver ID)",
        "mlx5_core 0000:5e:00.0: AER: PCIe Bus Error: severity=Uncorrectable (Fatal), type=Data Link Layer, (Requester ID)",
        "pcieport 0000:36:01.0: AER: Uncorrected (Fatal) error received: 0000:3b:00.0",
        "pcieport 0000:36:01.0: AER: Multiple Uncorrectable (Fatal) error messages received from 0000:3b:00.0",
    ],
    "aer-uncorrected": [
        "nvme 0000:c1:00.0: PCIe Bus Error: severity=Uncorrected (Non-Fatal), type=Transaction Layer, (Requester ID)",
        "pcieport 0000:36:01.0: AER: Uncorrected (Non-Fatal) error received: 0000:c1:00.0",
    ],
    "aer-corrected": [
        "pcieport 0000:00:1c.5: PCIe Bus Error: severity=Corrected, type=Physical Layer, (Receiver ID)",
        "nvme 0000:c1:00.0: PCIe Bus Error: severity=Correctable, type=Data Link Layer, (Transmitter ID)",
        "pcieport 0000:00:1c.5: AER: Corrected error received: 0000:00:1c.5",
        "pcieport 10000:00:01.0: AER: Multiple Correctable error message received from 10000:01:00.0",
    ],
    "pcie-containment": [
        "pcieport 0000:36:01.0: DPC: containment event, status:0x1f01 source:0x0000",
        "pcieport 0000:36:01.0: AER: DPC: containment event, status:0x1f11 source:0x3b00",
    ],
    "pcie-bandwidth-limited": [
        "mlx5_core 0000:1a:00.0: 63.008 Gb/s available PCIe bandwidth, limited by 8.0 GT/s PCIe x8 link at 0000:17:01.0 (capable of 252.048 Gb/s with 16.0 GT/s PCIe x16 link)",
        "pci 0000:3b:00.0: 31.504 Gb/s available PCIe bandwidth, limited by 16.0 GT/s PCIe x2 link at 0000:36:01.0 (capable of 504.112 Gb/s with 32.0 GT/s PCIe x16 link)",
    ],
    "iommu-fault": [
        "DMAR: [DMA Write] Request device [3b:00.0] PASID ffffffff fault addr 0xbf000000 [fault reason 05] PTE Write access is not set",
        "DMAR: [DMA Read NO_PASID] Request device [3b:00.0] fault addr 0xbf000000 [fault reason 0x06] PTE Read access is not set",
        "nvidia 0000:41:00.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x0041 address=0xd0000000 flags=0x0020]",
    ],
    "volume-read-only": [
        "EXT4-fs (rbd3): Remounting filesystem read-only",
        "XFS (nbd0): Filesystem has been shut down due to log error (0x2).",
        "EXT4-fs (loop12): Remounting filesystem read-only",
    ],
    "filesystem-read-only": [
        "EXT4-fs (md0): Remounting filesystem read-only",
        "EXT4-fs (nvme0n1p2): Remounting filesystem read-only",
        "BTRFS info (device sda1): forced readonly",
        "BTRFS info (device dm-0 state EA): forced readonly",
    ],
    "filesystem-shutdown": [
        "XFS (nvme1n1): Filesystem has been shut down due to log error (0x2).",
        "XFS (sda1): Log I/O Error (0x2) detected at xlog_ioend_work+0x6e/0x70 [xfs] (fs/xfs/xfs_log.c:1378).  Shutting down filesystem.",
        "XFS (dm-2): Log I/O Error Detected.  Shutting down filesystem",
        "XFS (dm-2): Corruption of in-memory data (0x8) detected at xfs_trans_cancel+0x14f/0x170 [xfs] (fs/xfs/xfs_trans.c:1090).  Shutting down filesystem.",
        "XFS (dm-0): xfs_do_force_shutdown(0x2) called from line 1272 of file fs/xfs/xfs_log.c. Return address = 00000000f0e1d2c3",
    ],
    "disk-write-lost": [
        "Buffer I/O error on dev dm-0, logical block 1308098575, lost async page write",
        "Buffer I/O error on device sda1, logical block 0, lost sync page write",
        "EXT4-fs (dm-0): I/O error while writing superblock",
    ],
    "filesystem-error": [
        "EXT4-fs error (device sda1): ext4_lookup:1851: inode #2: comm ls: deleted inode referenced: 12",
        "EXT4-fs (sda1): failed to convert unwritten extents to written extents -- potential data loss!  (inode 12, error -5)",
        "XFS (nvme1n1): Metadata corruption detected at xfs_agf_read_verify+0x104/0x110 [xfs], xfs_agf block 0x1",
        'XFS (nvme1n1): metadata I/O error in "xfs_read_agi+0x95/0x140 [xfs]" at daddr 0x2 len 1 error 5',
        "BTRFS error (device sda1): bdev /dev/sda1 errs: wr 0, rd 12, flush 0, corrupt 0, gen 0",
        "BTRFS critical (device sda1 state EA): corrupt leaf: root=2 block=1 slot=0",
    ],
    "disk-medium-error": [
        "blk_update_request: critical medium error, dev sda, sector 4321 op 0x0:(READ) flags 0x80700 phys_seg 1 prio class 0",
        "critical medium error, dev nvme2n1, sector 98304 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2",
    ],
    "disk-io-error": [
        "blk_update_request: I/O error, dev sdb, sector 2048 op 0x1:(WRITE) flags 0x0 phys_seg 1 prio class 0",
        "print_req_error: I/O error, dev sdb, sector 2048",
        "I/O error, dev nvme0n1, sector 1234567 op 0x0:(READ) flags 0x80700 phys_seg 4 prio class 2",
    ],
    "disk-buffer-error": [
        "Buffer I/O error on dev nvme0n1p1, logical block 0, async page read",
        "Buffer I/O error on device sdc, logical block 976754630",
    ],
    "beyond-end-of-device": [
        "attempt to access beyond end of device",
        r"kworker/u203:1: attempt to access beyond end of device\x0asda1: rw=1, sector=100, nr_sectors = 8 limit=96",
    ],
    "disk-offline": [
        "sd 2:0:0:0: rejecting I/O to offline device",
        "sd 0:2:0:0: [sda] rejecting I/O to offline device",
        "sd 2:0:0:0: Device offlined - not ready after error recovery",
        "ata3.00: disable device",
    ],
    "ata-reset": ["ata1.00: exception Emask 0x0 SAct 0x4000 SErr 0x0 action 0x6 frozen"],
    "nvme-dead": [
        "nvme nvme4: Disabling device after reset failure: -19",
        "nvme nvme4: Removing after probe failure status: -19",
        "nvme nvme4: Device not ready; aborting reset, CSTS=0x1",
        "nvme nvme0: Device not ready; aborting initialisation, CSTS=0x0",
    ],
    "nvme-timeout": [
        "nvme nvme4: I/O tag 22 (2016) opcode 0x2 (Admin Cmd) QID 0 timeout, reset controller",
        "nvme nvme0: I/O 812 QID 14 timeout, aborting",
        "nvme nvme0: I/O 812 (Write) QID 14 timeout, aborting",
        "nvme nvme0: I/O tag 300 (712c) opcode 0x1 (I/O Cmd) QID 3 timeout, aborting req_op:WRITE(1) size:4096",
        "nvme nvme0: controller is down; will reset: CSTS=0xffffffff, PCI_STATUS=0xffff",
    ],
    "nvme-no-path": [
        "block nvme0n1: no usable path - requeuing I/O",
        "block nvme0n1: no available path - failing I/O",
    ],
    "multipath-path-failed": [
        "device-mapper: multipath: Failing path 8:16.",
        "device-mapper: multipath: 253:0: Failing path 8:16.",
    ],
    "raid-failed": [
        "md/raid0md0: Disk failure on nvme0n1p1 detected, failing array.",
        "md/raid0:md127: Disk failure on nvme3n1 detected, failing array.",
        "md/raid:md1: Cannot continue operation (2/3 failed).",
    ],
    "raid-degraded": [
        "md/raid1:md0: Disk failure on sda1, disabling device.",
        "md/raid1:md0: active with 1 out of 2 mirrors",
        "md/raid:md5: raid level 5 active with 2 out of 3 devices, algorithm 2",
    ],
    "mlx5-health": [
        "mlx5_core 0000:5e:00.0: poll_health:815:(pid 0): device's health compromised - reached miss count",
        "mlx5_core 0000:5e:00.0: poll_health:739:(pid 0): Fatal error 3 detected",
        "mlx5_core 0000:5e:00.0: mlx5_health_try_recover:335:(pid 1881): health recovery flow aborted, PCI reads still not working",
    ],
    "mlx5-command-timeout": [
        "mlx5_core 0000:5e:00.0: wait_func:1061:(pid 1234): ACCESS_REG(0x805) timeout. Will cause a leak of a command resource",
        "mlx5_core 0000:5e:00.0: wait_func_handle_exec_timeout:1102:(pid 12): cmd[3]: CREATE_CQ(0x400) No done completion",
        "mlx5_core 0000:5e:00.0: wait_func:1151:(pid 12): QUERY_VPORT_COUNTER(0x770) No done completion",
    ],
    "mlx5-module-hot": [
        "mlx5_core 0000:5e:00.0: mlx5_port_module_event:1131:(pid 0): Port module event[error]: module 0, Cable error, High Temperature",
        "mlx5_core 0000:5e:00.0: Port module event[error]: module 0, Cable error, High Temperature",
    ],
    "mlx5-module-error": [
        "mlx5_core 0000:5e:00.0: Port module event[error]: module 1, Cable error, Bus stuck (I2C or data shorted)",
        "mlx5_core 0000:5e:00.0: Port module event[error]: module 1, Cable error, Power budget exceeded",
    ],
    "mlx5-slot-power": [
        "mlx5_core 0000:5c:00.0: mlx5_pcie_event:299:(pid 268269): Detected insufficient power on the PCIe slot (27W).",
    ],
    "mlx5-access-register": [
        "mlx5_core 0000:d2:00.0: mlx5_cmd_out_err:838:(pid 268269): ACCESS_REG(0x805) op_mod(0x1) failed, status bad resource(0x5), syndrome (0x305684), err(-22)",
    ],
    "nic-link-down": [
        "mlx5_core 0000:1a:00.0 ens1f0np0: Link down",
        "bnxt_en 0000:c1:00.0 eno1: NIC Link is Down",
        "systemd-networkd[1201]: ib3: Lost carrier",
    ],
    "nic-transmit-timeout": [
        "NETDEV WATCHDOG: eth0 (mlx5_core): transmit queue 3 timed out",
        "mlx5_core 0000:1a:00.0 ens1f0np0: NETDEV WATCHDOG: CPU: 1: transmit queue 0 timed out 5123 ms",
    ],
    "netdev-leaked": [
        "unregister_netdevice: waiting for eth0 to become free. Usage count = 1",
        "unregister_netdevice: waiting for lo to become free. Usage count = 2",
    ],
    "conntrack-full": [
        "nf_conntrack: nf_conntrack: table full, dropping packet",
        "nf_conntrack: table full, dropping packet.",
    ],
    "neighbour-table-full": ["neighbour: arp_cache: neighbor table overflow!"],
    "file-handles-refused": ["VFS: file-max limit 1000000 reached"],
    "workload-process-limit": [
        "cgroup: fork rejected by pids controller in /kubepods.slice/kubepods-burstable.slice/cri-containerd-0a.scope",
    ],
    "nccl-segfault": [
        "pt_main_thread[2536443]: segfault at 7f797fe00000 ip 00007f7c7ac69996 sp 00007f7c12fd7c30 error 4 in libnccl.so.2[7f7c7ac00000+d3d3000]",
        "python3[812]: segfault at 0 ip 00007f7c7ac69996 sp 00007f7c12fd7c30 error 6 in libnccl.so.2.21.5[7f7c7ac00000+d3d3000] likely on CPU 3 (core 3, socket 0)",
    ],
    "peermem-invalid-context": [
        "nvidia-peermem nv_get_p2p_free_callback:127 ERROR detected invalid context, skipping further processing",
    ],
    "nfs-not-responding": [
        "nfs: server 7.247.192.16 not responding, timed out",
        "nfs: server nas-a.example.internal not responding, still trying",
        "nfs4: server fe80::1%eth0 not responding, still trying",
        "lockd: server 10.0.0.7 not responding, still trying",
    ],
    "nfs-locks-lost": [
        "NFS: nfs4_reclaim_open_state: Lock reclaim failed!",
        "NFS: __nfs4_reclaim_open_state: Lock reclaim failed!",
    ],
    "ceph-session-lost": [
        "libceph: mon2 (1)10.0.0.3:6789 session lost, hunting for new mon",
        "libceph: osd12 (1)10.0.0.9:6801 socket closed (con state OPEN)",
        "ceph: mds0 hung",
        "ceph: [6f9d2c4e-aaaa-bbbb-cccc-0123456789ab 4711]: mds0 hung",
        "ceph: mds0 caps stale",
    ],
    "ceph-evicted": ["ceph: mds0 reconnect denied", "ceph: mds0 rejected session"],
    "lustre-evicted": [
        "LustreError: 167-0: lfs1-MDT0000-mdc-ffff9a3e40c5b000: This client was evicted by lfs1-MDT0000; in progress operations using this service will fail.",
    ],
    "lustre-connection-lost": [
        "Lustre: lfs1-OST0003-osc-ffff9a3e40c5b000: Connection to lfs1-OST0003 (at 10.0.0.5@o2ib) was lost; in progress operations using this service will wait for recovery to complete",
    ],
}

OVER: dict[str, tuple[str, str]] = {
    "nfs-not-responding": (
        "nfs: server nas-a.example.internal not responding, still trying",
        "nfs: server nas-a.example.internal OK",
    ),
    "lustre-connection-lost": (
        LINES["lustre-connection-lost"][0],
        "Lustre: lfs1-OST0003-osc-ffff9a3e40c5b000: Connection restored to lfs1-OST0003 (at 10.0.0.5@o2ib)",
    ),
    "nic-link-down": (
        "mlx5_core 0000:1a:00.0 ens1f0np0: Link down",
        "mlx5_core 0000:1a:00.0 ens1f0np0: Link up",
    ),
    "mlx5-health": (
        LINES["mlx5-health"][0],
        "mlx5_core 0000:5e:00.0: mlx5_health_try_recover:343:(pid 1881): health recovery succeeded",
    ),
}
"""Code → (the line that raises it, the line that says that it is over)."""
