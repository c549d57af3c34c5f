"""Ordinary lines of kernel logs, written after what healthy GPU nodes print while they boot and run. None is a finding.

Among them are lines that look like trouble and are none: words of users, faults of programs, what comes beside a fault's
own line, and devices that fail by nature (an empty drive, a discard that is refused).
"""

LINES = r"""
Linux version 6.8.0-45-generic (buildd@lcy02-amd64-115) (x86_64-linux-gnu-gcc-13 (Ubuntu 13.2.0-23ubuntu4) 13.2.0, GNU ld (GNU Binutils for Ubuntu) 2.42) #45-Ubuntu SMP PREEMPT_DYNAMIC
Command line: BOOT_IMAGE=/boot/vmlinuz-6.8.0-45-generic root=UUID=9f0e ro iommu=pt pci=realloc=off crashkernel=512M panic=10 errors=remount-ro
KERNEL supported cpus:
BIOS-provided physical RAM map:
BIOS-e820: [mem 0x0000000000000000-0x000000000009ffff] usable
BIOS-e820: [mem 0x000000007b000000-0x000000008fffffff] reserved
NX (Execute Disable) protection: active
secureboot: Secure boot disabled
SMBIOS 3.3.0 present.
DMI: Supermicro SYS-821GE-TNHR/X13DEG-OAD, BIOS 2.1 02/02/2024
tsc: Fast TSC calibration using PIT
tsc: Detected 2000.000 MHz processor
tsc: Refined TSC clocksource calibration: 1999.998 MHz
clocksource: tsc: mask: 0xffffffffffffffff max_cycles: 0x39a84e6c3b8, max_idle_ns: 881590591483 ns
clocksource: Switched to clocksource tsc
clocksource: jiffies: mask: 0xffffffff max_cycles: 0xffffffff, max_idle_ns: 7645519600211568 ns
clocksource: hpet: mask: 0xffffffff max_cycles: 0xffffffff, max_idle_ns: 133484882848 ns
TSC deadline timer available
ACPI: RSDP 0x000000007B3FE014 000024 (v02 SUPERM)
ACPI: Interpreter enabled
ACPI: PM: (supports S0 S5)
ACPI Error: No handler for Region [POWR] (00000000aabbccdd) [IPMI] (20230628/evregion-130)
ACPI Warning: SystemIO range 0x0000000000000428-0x000000000000042F conflicts with OpRegion
ACPI: PCI Root Bridge [PC00] (domain 0000 [bus 00-14])
acpi PNP0A08:00: _OSC: platform does not support [AER LTR]
acpi PNP0A08:00: _OSC: OS now controls [PCIeHotplug SHPCHotplug PME AER PCIeCapability LTR DPC]
Memory: 2113300120K/2147023872K available (22528K kernel code, 4443K rwdata)
SLUB: HWalign=64, Order=0-3, MinObjects=0, CPUs=192, Nodes=2
rcu: Hierarchical RCU implementation.
rcu: 	RCU restricting CPUs from NR_CPUS=8192 to nr_cpu_ids=192.
rcu: RCU calculated value of scheduler-enlistment delay is 25 jiffies.
rcu: srcu_init: Setting srcu_struct sizes to big.
rcu: INFO: rcu_tasks_kthread started
NR_IRQS: 524544, nr_irqs: 5784, preallocated irqs: 16
Console: colour dummy device 80x25
printk: console [tty0] enabled
printk: systemd: 24 output lines suppressed due to ratelimiting
mce: CPU0: Thermal monitoring enabled (TM1)
mce: CMCI storm detected: switching to poll mode
mce: Using 20 MCE banks
mce: [Firmware Bug]: Your BIOS is not setting up LMCE
MCE: In-kernel MCE decoding enabled.
EDAC MC: Ver: 3.0.0
EDAC MC0: Giving out device to module i10nm_edac controller Intel_10nm Socket#0 IMC#0: DEV 0000:7e:0c.0 (INTERRUPT)
EDAC MC1: Giving out device to module i10nm_edac controller Intel_10nm Socket#0 IMC#1: DEV 0000:7e:0d.0 (INTERRUPT)
EDAC i10nm: v0.0.6
EDAC amd64: MCT channel count: 8
EDAC amd64: F19h detected (node 0).
EDAC sbridge: Seeking for: PCI ID 8086:2fa0
EDAC MC: UMC0 chip selects:
EDAC amd64: MC: 0:     0MB 1:     0MB
EDAC skx: No hot plug support
GHES: APEI firmware first mode is enabled by APEI bit and WHEA _OSC.
ERST: Error Record Serialization Table (ERST) support is initialized.
HEST: Table parsing has been initialized.
BERT: Boot Error Record Table support is disabled. Enable it by using bert_enable as kernel parameter.
pstore: Registered erst as persistent store backend
pstore: Using crash dump compression: deflate
x86/fpu: Supporting XSAVE feature 0x001: 'x87 floating point registers'
x86/cpu: SGX disabled by BIOS.
Spectre V2 : Mitigation: Enhanced / Automatic IBRS
MDS: Vulnerable: Clear CPU buffers attempted, no microcode
microcode: Current revision: 0x2b000590
microcode: Updated early from: 0x2b000571
smpboot: CPU0: Intel(R) Xeon(R) Platinum 8480C (family: 0x6, model: 0x8f, stepping: 0x8)
smp: Brought up 2 nodes, 192 CPUs
smpboot: Total of 192 processors activated (768000.00 BogoMIPS)
CPU3: SGX disabled
core: Performance Events: XSAVE Architectural LBR, PEBS fmt4+-baseline, Sapphire Rapids events
NMI watchdog: Enabled. Permanently consumes one hw-PMU counter.
watchdog: Delayed init of the lockup detector failed: -19
perf: interrupt took too long (2517 > 2500), lowering kernel.perf_event_max_sample_rate to 79250
INFO: NMI handler (perf_event_nmi_handler) took too long to run: 1.234 msecs
hrtimer: interrupt took 41234 ns
workqueue: drm_fb_helper_damage_work hogged CPU for >10000us 4 times, consider switching to WQ_UNBOUND
sched: DL replenish lagged too much
kauditd_printk_skb: 41 callbacks suppressed
audit: initializing netlink subsys (disabled)
audit: type=2000 audit(1731234567.100:1): state=initialized audit_enabled=0 res=1
audit: type=1400 audit(1731234571.412:2): apparmor="STATUS" operation="profile_load" profile="unconfined" name="docker-default" pid=1412 comm="apparmor_parser"
audit: type=1400 audit(1731234577.900:61): apparmor="DENIED" operation="ptrace" profile="cri-containerd.apparmor.d" pid=4711 comm="python3" requested_mask="read" denied_mask="read" peer="unconfined"
audit: type=1400 audit(1731234577.901:62): apparmor="DENIED" operation="mount" info="failed mntpnt match" error=-13 profile="cri-containerd.apparmor.d" name="/" pid=5112 comm="mount" flags="rw, rslave"
audit: type=1326 audit(1731234580.001:63): auid=4294967295 uid=0 gid=0 ses=4294967295 subj=unconfined pid=8891 comm="EXT4-fs error (" exe="/usr/bin/bash" sig=31 arch=c000003e syscall=435 compat=0 ip=0x7f2a code=0x0
audit: type=1400 audit(1731234599.001:64): apparmor="DENIED" operation="open" name="/proc/Kernel panic - not syncing:" pid=31 comm="cat"
audit: backlog limit exceeded
audit: audit_lost=12 audit_rate_limit=0 audit_backlog_limit=64
systemd[1]: systemd 255.4-1ubuntu8.4 running in system mode (+PAM +AUDIT +SELINUX +APPARMOR)
systemd[1]: Detected architecture x86-64.
systemd[1]: Hostname set to <gpu-a-017>.
systemd[1]: Mounting dev-hugepages.mount - Huge Pages File System...
systemd[1]: Starting kmod-static-nodes.service - Create List of Static Device Nodes...
systemd[1]: Started systemd-journald.service - Journal Service.
systemd[1]: kubelet.service: Main process exited, code=exited, status=1/FAILURE
systemd[1]: containerd.service: Watchdog timeout (limit 3min)!
systemd-journald[812]: Received client request to flush runtime journal.
systemd-journald[812]: File /var/log/journal/aa/system.journal corrupted or uncleanly shut down, renaming and replacing.
systemd-networkd[1201]: veth1a2b3c4: Lost carrier
systemd-networkd[1201]: cali0a1b2c3d4e5: Gained carrier
systemd-networkd[1201]: ens1f0np0: Link UP
systemd-fstab-generator[701]: Failed to parse fstab
systemd-udevd[913]: nvidia0: Process '/sbin/modprobe nvidia-modeset' failed with exit code 1.
usb 1-1: new high-speed USB device number 2 using xhci_hcd
usb 1-1: New USB device found, idVendor=0557, idProduct=7000, bcdDevice= 0.00
usb 1-1.1: device descriptor read/64, error -71
usb 1-14: reset high-speed USB device number 3 using xhci_hcd
usb-storage 2-1:1.0: USB Mass Storage device detected
input: HID 0557:2419 as /devices/pci0000:00/0000:00:14.0/usb1/1-1/1-1.1
hid-generic 0003:0557:2419.0001: input,hidraw0: USB HID v1.00 Keyboard
xhci_hcd 0000:00:14.0: xHCI Host Controller
hub 1-0:1.0: 16 ports detected
pci 0000:3b:00.0: [10de:2330] type 00 class 0x030200 PCIe Endpoint
pci 0000:3b:00.0: BAR 0 [mem 0x9c000000-0x9cffffff 64bit pref]
pci 0000:3b:00.0: Max Payload Size set to 256 (was 128, max 256)
pci 0000:3b:00.0: PME# supported from D0 D3hot
pci 0000:00:1c.5: bridge window [mem 0x1000-0x0fff 64bit pref] to [bus 02] add_size 200000
pci 0000:5e:00.0: VF BAR 0 [mem 0x00000000-0x000fffff 64bit pref]
pci_bus 0000:17: resource 2 [mem 0x206000000000-0x206fffffffff 64bit pref]
pcieport 0000:36:01.0: PME: Signaling with IRQ 41
pcieport 0000:36:01.0: AER: enabled with IRQ 41
pcieport 0000:36:01.0: DPC: enabled with IRQ 41
pcieport 0000:36:01.0: DPC: error containment capabilities: Int Msg #0, RPExt+ PoisonedTLP+ SwTrigger+ RP PIO Log 4, DL_ActiveErr+
pcieport 0000:36:01.0: pciehp: Slot #3 AttnBtn- PwrCtrl- MRL- AttnInd- PwrInd- HotPlug+ Surprise+ Interlock- NoCompl+ IbPresDis- LLActRep+
pcieport 0000:00:1c.5: AER: device recovery successful
pcieport 0000:00:1c.5:    [ 0] RxErr                  (First)
pcieport 0000:00:1c.5:   device [8086:1b0] error status/mask=00000001/00002000
shpchp: Standard Hot Plug PCI Controller Driver version: 0.4
DMAR: Host address width 52
DMAR: DRHD base: 0x000000c5ffc000 flags: 0x0
DMAR: Intel(R) Virtualization Technology for Directed I/O
DMAR-IR: Enabled IRQ remapping in x2apic mode
AMD-Vi: AMD IOMMUv2 loaded and initialized
AMD-Vi: Interrupt remapping enabled
iommu: Default domain type: Passthrough (set via kernel command line)
pci 0000:3b:00.0: Adding to iommu group 12
IOAPIC[0]: apic_id 8, version 32, address 0xfec00000, GSI 0-119
nvidia: loading out-of-tree module taints kernel.
nvidia: module license 'NVIDIA' taints kernel.
nvidia: module verification failed: signature and/or required key missing - tainting kernel
nvidia-nvlink: Nvlink Core is being initialized, major device number 240
nvidia 0000:3b:00.0: enabling device (0140 -> 0142)
nvidia 0000:3b:00.0: vgaarb: VGA decodes changed: olddecodes=none,decodes=none:owns=none
NVRM: loading NVIDIA UNIX x86_64 Kernel Module  570.124.06  Wed Feb 26 02:03:58 UTC 2025
NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder@U22-I3-AF01-09-2)
NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (nixbld@)
NVRM: gpuClearFbhubPoisonIntrForBug2924523_GA100: FBHUB Interrupt detected. Clearing it.
NVRM: GPU 0000:3b:00.0: RmInitAdapter succeeded
NVRM: GPU at PCI:0000:3b:00: GPU-5f1ee700-1d1c-4a7e-8001-ac0ffee00000
NVRM: GPU Board Serial Number: 1652923000100
NVRM: objClInitPcieChipset: *** Chipset Setup Function Error!
NVRM: iovaspaceDestruct_IMPL: 4 left-over mappings in IOVAS 0x3b00
NVRM: Persistence mode is deprecated and will be removed in a future release. Please use nvidia-persistenced instead.
NVRM: API mismatch check skipped
nvidia-modeset: Loading NVIDIA Kernel Mode Setting Driver for UNIX platforms  570.124.06
nvidia-modeset: WARNING: GPU:0: Correcting number of heads for current head configuration (0x00)
[drm] [nvidia-drm] [GPU ID 0x00003b00] Loading driver
[drm] Initialized nvidia-drm 0.0.0 20160202 for 0000:3b:00.0 on minor 1
nvidia-uvm: Loaded the UVM driver, major device number 508.
nvidia_uvm: module uses symbols nvUvmInterfaceDisableAccessCntr from proprietary module nvidia, inheriting taint.
nvidia-nvswitch: Probing device 0000:86:00.0, Vendor Id = 0x10de, Device Id = 0x22a3, Class = 0x68000
nvidia-nvswitch0: open (major=510)
nvidia-nvswitch0: using MSI
nvidia_peermem: module using GPL-only symbols uses symbols ib_register_peer_memory_client from proprietary module
nvidia-peermem nv_mem_client_init:497 loaded
gdrdrv: loading out-of-tree module taints kernel.
gdrdrv:gdrdrv_init:loading gdrdrv version 2.4 built for NVIDIA driver
mlx5_core 0000:5e:00.0: firmware version: 28.39.1002
mlx5_core 0000:5e:00.0: 504.112 Gb/s available PCIe bandwidth (32.0 GT/s PCIe x16 link)
mlx5_core 0000:5e:00.0: Rate limit: 127 rates are supported, range: 0Mbps to 195312Mbps
mlx5_core 0000:5e:00.0: E-Switch: Total vports 2, per vport: max uc(128) max mc(2048)
mlx5_core 0000:5e:00.0: Flow counters bulk query buffer size increased, bulk_query_len(8)
mlx5_core 0000:5e:00.0: Port module event: module 0, Cable plugged
mlx5_core 0000:5e:00.0: Port module event: module 0, Cable unplugged
mlx5_core 0000:5e:00.0: mlx5_pcie_event:294:(pid 691): PCIe slot advertised sufficient power (75W).
mlx5_core 0000:5e:00.0: MLX5E: StrdRq(1) RqSz(8) StrdSz(2048) RxCqeCmprss(0 enhanced)
mlx5_core 0000:5e:00.0: Supported tc chains and prios offload
mlx5_core 0000:5e:00.0 ens1f0np0: renamed from eth0
mlx5_core 0000:5e:00.0: mlx5_fw_version_query: unable to read fw image
mlx5_core 0000:5e:00.0: health recovery starts soon
mlx5_core 0000:5e:00.0: mlx5_health_try_recover:330:(pid 1): starting health recovery flow
mlx5_core.rdma: mlx5_core.rdma.0: allowed
infiniband mlx5_0: mlx5_ib_test_wc: write combining not supported
infiniband mlx5_2: set_user_attr: unsupported
mlx5_ib: Mellanox Connect-IB Infiniband driver v5.0-0
IPv6: ADDRCONF(NETDEV_CHANGE): ib0: link becomes ready
IPv6: ADDRCONF(NETDEV_UP): ens1f0np0: link is not ready
ib0: enabling connected mode will cause multicast packet drops
mlx5_1: sending P_Key table change event
rdma_rxe: loaded
bnxt_en 0000:c1:00.0 eth1: Broadcom BCM57508 NetXtreme-E found at mem 9d210000, node addr aa:bb:cc:dd:ee:ff
bnxt_en 0000:c1:00.0: 126.024 Gb/s available PCIe bandwidth (16.0 GT/s PCIe x8 link)
i40e 0000:18:00.0: MAC address: 3c:ec:ef:00:00:01
ixgbe 0000:19:00.0: Multiqueue Enabled: Rx Queue count = 63, Tx Queue count = 63 XDP Queue count = 0
bonding: bond0 is being created...
bond0: (slave ens2f0): link status definitely up, 25000 Mbps full duplex
bond0: active interface up!
8021q: adding VLAN 0 to HW filter on device bond0
docker0: port 1(veth1a2b3c4) entered blocking state
docker0: port 1(veth1a2b3c4) entered disabled state
docker0: port 1(veth1a2b3c4) entered forwarding state
veth1a2b3c4: entered promiscuous mode
veth1a2b3c4: left allmulticast mode
device veth9f8e7d6 entered promiscuous mode
eth0: renamed from tmp5a1c2
cni0: port 7(vethcafe) entered learning state
cali1234567890a: Caught tx_queue_len zero misconfig
br-3f: port 2(veth12) received packet on veth12 with own address as source address
bridge: filtering via arp/ip/ip6tables is no longer available by default. Update your scripts to load br_netfilter if you need this.
Bridge firewalling registered
nf_conntrack: default automatic helper assignment has been turned off for security reasons
nf_conntrack version 0.5.0 (65536 buckets, 262144 max)
nf_conntrack: nf_conntrack: expect table flushed
IPVS: [rr] scheduler registered.
IPVS: Connection hash table configured (size=4096, memory=32Kbytes)
ip_set: protocol 7
wireguard: WireGuard 1.0.0 loaded. See www.wireguard.com for information.
TCP: request_sock_TCP: Possible SYN flooding on port 0.0.0.0:8080. Sending cookies.
TCP: eth0: Driver has suspect GRO implementation, TCP performance may be compromised.
IPv4: martian source 10.244.1.7 from 10.244.9.2, on dev eth0
net_ratelimit: 12 callbacks suppressed
neighbour: ndisc_cache: garbage collection interval changed
UDP: bad checksum. From 10.0.0.1:53 to 10.0.0.2:40000 ulen 60
SGI XFS with ACLs, security attributes, realtime, scrub, repair, quota, no debug enabled
XFS (nvme1n1): Mounting V5 Filesystem 0a1b2c3d
XFS (nvme1n1): Ending clean mount
XFS (nvme1n1): Starting recovery (logdev: internal)
XFS (nvme1n1): Ending recovery (logdev: internal)
XFS (nvme1n1): Unmounting Filesystem 0a1b2c3d
XFS (sdb1): User initiated shutdown received.
XFS (sdb1): xfs_do_force_shutdown(0x4) called from line 1234 of file fs/xfs/xfs_fsops.c.
XFS (dm-1): Quotacheck needed: Please wait.
EXT4-fs (sda1): mounted filesystem 9f0e ro with ordered data mode. Quota mode: none.
EXT4-fs (sda1): re-mounted 9f0e r/w. Quota mode: none.
EXT4-fs (nvme0n1p2): recovery complete
EXT4-fs (nvme0n1p2): orphan cleanup on readonly fs
EXT4-fs (nvme0n1p2): unmounting filesystem 9f0e.
EXT4-fs (dm-0): warning: mounting unchecked fs, running e2fsck is recommended
EXT4-fs warning (device sda1): ext4_dirblock_csum_verify:405: inode #2: comm find: No space for directory leaf checksum. Please run e2fsck -D.
EXT4-fs (sda1): error count since last fsck: 0
EXT4-fs (sda2): write access unavailable, skipping orphan cleanup
FAT-fs (sda1): Volume was not properly unmounted. Some data may be corrupt. Please run fsck.
BTRFS info (device sdc): using crc32c (crc32c-intel) checksum algorithm
BTRFS info (device sdc): disk space caching is enabled
BTRFS warning (device sdc): duplicate device /dev/sdc devid 1 generation 11 scanned by (udev-worker) (912)
overlayfs: idmapped layers are currently not supported
overlay: Unknown parameter 'fsync'
squashfs: version 4.0 (2009/01/31) Phillip Lougher
loop0: detected capacity change from 0 to 131072
loop: module loaded
I/O error, dev loop3, sector 0 op 0x0:(READ) flags 0x80700 phys_seg 1 prio class 2
Buffer I/O error on dev sr0, logical block 0, async page read
blk_update_request: I/O error, dev fd0, sector 0 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 0
blk_update_request: operation not supported error, dev nvme0n1, sector 2048 op 0x9:(WRITE_ZEROES) flags 0x800 phys_seg 0 prio class 0
I/O error, dev nvme0n1, sector 2048 op 0x3:(DISCARD) flags 0x4800 phys_seg 1 prio class 2
critical target error, dev sda, sector 2048 op 0x3:(DISCARD) flags 0x800 phys_seg 1 prio class 0
sd 0:0:0:0: [sda] Attached SCSI disk
sd 0:0:0:0: [sda] Write Protect is off
sd 0:0:0:0: [sda] Synchronizing SCSI cache
sd 2:0:0:0: Power-on or device reset occurred
scsi host0: ahci
scsi 0:0:0:0: Direct-Access     ATA      Micron_5300_MTFD U001 PQ: 0 ANSI: 5
ata1: SATA link up 6.0 Gbps (SStatus 133 SControl 300)
ata2: SATA link down (SStatus 0 SControl 300)
ata1.00: ATA-11: Micron_5300_MTFDDAK480TDS, D3MU001, max UDMA/133
ata1.00: configured for UDMA/133
ata1: EH complete
ata1.00: Enabling discard_zeroes_data
ahci 0000:00:17.0: AHCI 0001.0301 32 slots 8 ports 6 Gbps 0xff impl SATA mode
megaraid_sas 0000:65:00.0: FW now in Ready state
megaraid_sas 0000:65:00.0: 1234 (771234567s/0x0020/INFO) - Patrol Read can't be started, as PDs are either not ONLINE
mpt3sas_cm0: sending port enable !!
nvme nvme0: pci function 0000:c1:00.0
nvme nvme0: 128/0/0 default/read/poll queues
nvme nvme0: Shutdown timeout set to 10 seconds
nvme nvme0: missing or invalid SUBNQN field.
nvme nvme0: allocated 64 MiB host memory buffer.
nvme nvme0: resetting controller due to persistent internal error log page read
nvme nvme3: rescanning namespaces.
nvme nvme2: globally duplicate IDs for nsid 1
nvme0n1: p1 p2 p3
md: raid1 personality registered for level 1
md/raid1:md0: active with 2 out of 2 mirrors
md/raid:md5: raid level 5 active with 12 out of 12 devices, algorithm 2
md0: detected capacity change from 0 to 1875374080
md: data-check of RAID array md0
md: md0: data-check done.
md: recovery of RAID array md0
device-mapper: uevent: version 1.0.3
device-mapper: ioctl: 4.48.0-ioctl (2023-03-01) initialised: dm-devel@redhat.com
device-mapper: multipath: Reinstating path 8:16.
device-mapper: thin: Data device (dm-1) discard unsupported: Disabling discard passdown.
RPC: Registered named UNIX socket transport module.
RPC: Registered tcp NFSv4.1 backchannel transport module.
FS-Cache: Loaded
FS-Cache: Netfs 'nfs' registered for caching
NFS: Registering the id_resolver key type
Key type id_resolver registered
nfs4: Deprecated parameter 'intr'
NFS: nfs4_discover_server_trunking unhandled error -512. Exiting with error EIO
NFS: Server nas-a.example.internal reports our clientid is in use
nfsd: last server has exited, flushing export cache
nfs: Deprecated parameter 'udp'
CIFS: Attempting to mount //filer/share
CIFS: VFS: \\filer has not responded in 180 seconds. Reconnecting...
Key type cifs.spnego registered
libceph: loaded (mon/osd proto 15/24)
libceph: mon0 (1)10.0.0.1:6789 session established
libceph: client4711 fsid 6f9d2c4e-aaaa-bbbb-cccc-0123456789ab
ceph: loaded (mds proto 32)
ceph: mds0 reconnect start
ceph: mds0 reconnect success
ceph: mds0 caps renewed
rbd: rbd0: capacity 107374182400 features 0x3d
fuse: init (API version 7.39)
Lustre: Lustre: Build Version: 2.15.4
Lustre: Mounted lfs1-client
Lustre: Unmounted lfs1-client
LustreError: 4711:0:(file.c:4731:ll_inode_revalidate_fini()) lfs1: revalidate FID [0x200000007:0x1:0x0] error: rc = -4
LNet: Added LNI 10.0.0.9@o2ib [8/256/0/180]
beegfs: module verification failed
python3 invoked oom-killer: gfp_mask=0x1100cca(GFP_HIGHUSER_MOVABLE), order=0, oom_score_adj=995
CPU: 41 PID: 71234 Comm: python3 Tainted: P           OE      6.8.0-45-generic #45-Ubuntu
Hardware name: Supermicro SYS-821GE-TNHR/X13DEG-OAD, BIOS 2.1 02/02/2024
Call Trace:
 <TASK>
 dump_stack_lvl+0x76/0xa0
 oom_kill_process+0x118/0x280
 mem_cgroup_out_of_memory+0x145/0x160
memory: usage 67108864kB, limit 67108864kB, failcnt 4121
swap: usage 0kB, limit 9007199254740988kB, failcnt 0
Memory cgroup stats for /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice:
Tasks state (memory values in pages):
[  pid  ]   uid  tgid total_vm      rss rss_anon rss_file rss_shmem pgtables_bytes swapents oom_score_adj name
[  71234]  1000 71234 26214400 16777216 16777216        0         0 134217728        0           995 python3
oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=cri-containerd-0a.scope,mems_allowed=0-1,oom_memcg=/kubepods.slice,task_memcg=/kubepods.slice,task=python3,pid=71234,uid=1000
oom_reaper: reaped process 71234 (python3), now anon-rss:0kB, file-rss:0kB, shmem-rss:0kB
Tasks in /kubepods.slice/kubepods-pod1.slice are going to be killed due to memory.oom.group set
systemd-oomd (pid 812): /proc/812/oom_adj is deprecated, please use /proc/812/oom_score_adj instead.
python3: page allocation failure: order:4, mode:0x40dc0(GFP_KERNEL|__GFP_COMP|__GFP_ZERO), nodemask=(null)
Mem-Info:
Node 0 Normal free:45056kB boost:0kB min:45056kB low:56320kB high:67584kB
Out of memory: this line is written by no kernel
python3 (71234): drop_caches: 1
python3[4711]: segfault at 0 ip 0000560c5d1e3a10 sp 00007ffd1f2e3a40 error 4 in python3.11[560c5d000000+2d1000] likely on CPU 7 (core 7, socket 0)
Code: 48 89 45 f8 48 8b 45 f8 48 8b 00 <48> 8b 40 08 48 89 c7 e8
traps: pt_main_thread[88] general protection fault ip:7f2a3c0e1b2d sp:7ffd1f2e3a40 error:0 in libc10_cuda.so[7f2a3c000000+200000]
traps: node[912] trap invalid opcode ip:1a2b3c sp:7ffe error:0 in node[400000+5a0000]
traps: stress-ng[5120] trap divide error ip:55d0 sp:7ffd error:0
cuda-EvtHandlr[77]: segfault at 10 ip 00007f00 sp 00007f01 error 4 in libcuda.so.570.124.06[7f0000000000+1a00000]
show_signal_msg: 12 callbacks suppressed
process 'docker/tmp/qemu-check' started with executable stack
warning: `node' uses wireless extensions which will stop working for Wi-Fi 7 hardware; use nl80211
python3 (pid 4711) is setting deprecated v1 encryption policy
apparmor: no such file in namespace
capability: warning: `nvidia-smi' uses 32-bit capabilities (legacy support in use)
task: Xid is the name of a column in this table
Xid statistics collector started
exid: maxXid 79, minXid 13
kernel: task python3 was blocked for a while, said the user
a user wrote: EXT4-fs error (device sda1): ext4_lookup:1851: inode #2
a user wrote: Kernel panic - not syncing: for fun
my-app[31]: nvme nvme4: Disabling device after reset failure: -19
sudo: pam_unix(sudo:session): session opened for user root(uid=0) by (uid=1000)
sshd[123]: Connection closed by 10.0.0.9 port 22 [preauth]
cloud-init[1200]: Cloud-init v. 24.1 running 'init-local' at Sun, 10 Nov 2024 10:00:00 +0000. Up 12.34 seconds.
kubelet[3011]: E1110 10:00:00.000000 3011 pod_workers.go:1298] "Error syncing pod" err="context deadline exceeded: blocked for more than 120 seconds."
containerd[2811]: time="2024-11-10T10:00:00Z" level=error msg="Buffer I/O error on dev sda, logical block 0"
IPMI message handler: version 39.2
ipmi_si IPI0001:00: IPMI kcs interface initialized
ipmi_si: The BMC does not support setting the recv irq bit, compensating, but the BMC needs to be fixed.
power_meter ACPI000D:00: Found ACPI power meter.
thermal thermal_zone0: failed to read out thermal zone (-61)
intel_rapl_common: Found RAPL domain package
mce: CPU12: Package temperature/speed normal
CPU3: Core temperature/speed normal
intel_pstate: Intel P-state driver initializing
intel_powerclamp: Start idle injection to reduce power
cpuidle: using governor menu
random: crng init done
Freeing unused kernel image (initmem) memory: 4876K
Run /init as init process
Loading compiled-in X.509 certificates
integrity: Loading X.509 certificate: UEFI:db
evm: Initialising EVM extended attributes:
Key type dns_resolver registered
zram: Added device: zram0
Adding 8388604k swap on /swap.img.  Priority:-2 extents:12 across:8912892k SS
kexec_core: Starting new kernel
kdump-tools[901]: Starting kdump-tools:
crash memory driver: version 1.5
livepatch: enabling patch 'lkp_Ubuntu_6_8_0_45'
kvm: SMP vm created on host with unstable TSC; guest TSC will not be reliable
kvm_intel: VMX unsupported
vfio-pci 0000:3b:00.0: vfio_bar_restore: reset recovery - restoring BARs
ast 0000:04:00.0: [drm] Using default configuration
fbcon: astdrmfb (fb0) is primary device
i8042: PNP: No PS/2 controller found.
rtc_cmos 00:00: setting system clock to 2024-11-10T09:59:31 UTC (1731232771)
hv_vmbus: Vmbus version:5.3
virtio_net virtio0 ens3: renamed from eth0
ena 0000:00:05.0: ENA device version: 0.10
efa 0000:00:1d.0: Setup irq:58 name:efa-mgmnt@pci:0000:00:1d.0
cgroup: cgroup: disabling cgroup2 socket matching due to net_prio or net_cls activation
cgroup: runc (4711) created nested cgroup for controller "memory" which has incomplete hierarchy support.
cgroup: Setting release_agent not allowed
hugetlbfs: python3 (4711): Using mlock ulimits for SHM_HUGETLB is obsolete
kmem.limit_in_bytes is deprecated and will be removed. Please report your usecase to linux-mm@kvack.org if you depend on this functionality.
watchdog: watchdog0: watchdog did not stop!
softdog: initialized. soft_noboot=0 soft_margin=60 sec soft_panic=0
UBSAN: array-index-out-of-bounds in drivers/foo.c:12:3
WARNING: CPU: 41 PID: 71234 at kernel/rcu/tree.c:2400 rcu_core+0x1b/0x20
------------[ cut here ]------------
---[ end trace 0000000000000000 ]---
Modules linked in: nvidia_uvm(POE) nvidia_drm(POE) nvidia_modeset(POE) nvidia(POE) mlx5_ib(OE) xt_conntrack
RIP: 0010:native_safe_halt+0xb/0x10
RSP: 0018:ffffb3c1c0a3fe90 EFLAGS: 00000246
R13: 0000000000000000 R14: 0000000000000000 R15: 0000000000000000
sysrq: Show Blocked State
sysrq: HELP : loglevel(0-9) reboot(b) crash(c) terminate-all-tasks(e) memory-full-oom-kill(f)
"echo 0 > /proc/sys/kernel/hung_task_timeout_secs" disables this message.
      Tainted: P           OE      6.8.0-45-generic #45-Ubuntu
task:jfsmount        state:D stack:0     pid:9831  tgid:9831  ppid:9614   flags:0x00000004
INFO: lockdep is turned off.
INFO: task accounting enabled
Future hung task reports are suppressed, see sysctl kernel.hung_task_warnings
BUG: workqueue lockup - pool cpus=7 node=0 flags=0x0 nice=0 stuck for 31s!
BUG: KASAN: not built in
Memory failure: not supported on this kernel
soft offline: 0x12a4f3: page migration successful
NETDEV WATCHDOG: initialised
nvidia-persistenced: Verbose syslog connection opened
fleetmedic: a line of its own that clears nothing
""".strip("\n").split("\n")
