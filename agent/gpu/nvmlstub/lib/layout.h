// The shared memory of the stub: what Go writes and the library reads. layout.go holds the
// same structs; a test compares every offset. Raise STUB_VERSION with every change.
#ifndef FLOPWATCH_STUB_LAYOUT_H
#define FLOPWATCH_STUB_LAYOUT_H

#include <stdint.h>

#define STUB_MAGIC "FWNVMLSH"
#define STUB_VERSION 2u
#define STUB_MAX_GPUS 16
#define STUB_MAX_SEGMENTS 64
#define STUB_MAX_PROCESSES 64
#define STUB_MAX_FAULTS 32
#define STUB_MAX_EVENTS 64
#define STUB_MAX_FUNCTIONS 512
#define STUB_MAX_LINKS 36
#define STUB_MAX_INSTANCES 64        // MIG devices of all GPUs together
#define STUB_MAX_INSTANCE_SEGMENTS 4 // of each
#define STUB_MAX_BLOCKED 16
#define STUB_MAX_MIG 8               // places for MIG devices under a GPU
#define STUB_NO_GPU STUB_MAX_GPUS // the column and the mask bit of calls that name no GPU
#define STUB_NEVER INT64_MAX

// What a GPU does, as numbers that can be integrated over time. 0..1 unless the name says.
enum stub_quantity {
    STUB_GR,
    STUB_SM,
    STUB_OCCUPANCY,
    STUB_INTEGER,
    STUB_TENSOR,
    STUB_DFMA,
    STUB_HMMA,
    STUB_IMMA,
    STUB_DRAM,
    STUB_FP64,
    STUB_FP32,
    STUB_FP16,
    STUB_NVDEC,
    STUB_NVENC,
    STUB_UTIL,
    STUB_MEM_UTIL,
    STUB_POWER_W,
    STUB_SM_MHZ,
    STUB_MEM_MHZ,
    STUB_NVLINK_TX_BPS, // bytes a second
    STUB_NVLINK_RX_BPS,
    STUB_PCIE_TX_BPS,
    STUB_PCIE_RX_BPS,
    STUB_MEM_USED_BYTES,
    STUB_TEMP_C,
    STUB_MEM_TEMP_C,
    STUB_QUANTITIES
};

// What a driver makes of GPM's counters since boot.
enum stub_cycles { STUB_CYCLES_COUNTED, STUB_CYCLES_UNSUPPORTED, STUB_CYCLES_UNKNOWN, STUB_CYCLES_REFUSED };

// A stretch of a scenario: steps of step_us, each a computing part and then, for the share
// comm of the step, a communicating part. No step: computing all the time.
struct stub_segment {
    int64_t start_us, length_us; // in the scenario, or in its cycle where it repeats
    int64_t step_us, phase_us;   // phase_us: how far the first step has got at the start
    double comm;
    uint32_t kind, pstate;
    uint64_t reasons; // nvmlClocksEventReason bits
    double level[2][STUB_QUANTITIES];
};

// What a GPU tells rarely. Counters are those of now, whatever the time is: who tests sets them anew.
struct stub_health {
    uint64_t ecc_corrected_volatile, ecc_uncorrected_volatile, ecc_corrected_aggregate, ecc_uncorrected_aggregate;
    uint64_t capped_ns[5]; // by enum stub_cap, at the scenario's start
    uint64_t nvlinks_down; // a bit for each link
    uint64_t nvlink_crc_flit, nvlink_crc_data, nvlink_replay, nvlink_recovery, nvlink_ecc; // a link
    uint64_t mem_reserved_bytes, bar1_used_bytes;
    uint32_t pcie_errors[11]; // fields 173 to 183
    uint32_t pcie_replays, pcie_replay_rollovers, pcie_gen, pcie_width;
    uint32_t pages_retired_sbe, pages_retired_dbe, pages_pending;
    uint32_t rows_remapped_corrected, rows_remapped_uncorrected, row_remap_pending, row_remap_failed;
    uint32_t power_limit_mw; // the enforced one
    uint32_t fans, fan_percent, recovery_action, pad;
};

// What holds clocks down.
enum stub_cap { STUB_CAP_SW_POWER, STUB_CAP_SYNC_BOOST, STUB_CAP_SW_THERMAL, STUB_CAP_HW_THERMAL, STUB_CAP_HW_BRAKE };

struct stub_gpu {
    char uuid[48], name[64], serial[32], vbios[32], board_part[32];
    uint32_t pci_domain, pci_bus, pci_device, pci_device_id, pci_subsystem_id;
    uint32_t model, sms; // model is for Go alone
    uint32_t minor, module_id, board_id, brand, architecture, cc_major, cc_minor;
    uint32_t cores, bus_width, numa_node;
    uint32_t power_limit_mw, power_default_mw, power_min_mw, power_max_mw;
    uint32_t max_clock_mhz[4]; // by nvmlClockType_t
    uint32_t nvlinks, nvlink_version, nvlink_mbps;
    uint32_t pcie_max_gen, pcie_max_width;
    uint32_t broken; // what every call on it returns, 0: nothing
    uint32_t fabric_state, fabric_status, fabric_clique, fabric_health, fabric_summary;
    unsigned char fabric_cluster[16];
    uint32_t module_mw, c2c_links; // what its module draws beside it, 0: it has none
    uint32_t gpm, power_instant; // 0 or 1; power_instant: GetPowerUsage is no average
    uint32_t cycles;             // of GPM's counters since boot: enum stub_cycles
    uint32_t mig_pending;        // what mig will be after the next reset
    uint32_t ecc, mig;           // 0, 1, or 2 for not supported
    uint32_t temp_shutdown_c, temp_slowdown_c, temp_mem_max_c, temp_gpu_max_c;
    uint32_t ecc_pending, segments;
    struct stub_health health;
    uint64_t mem_total, bar1_total;
    uint64_t energy_start_mj, nvlink_tx_start, nvlink_rx_start, pcie_tx_start, pcie_rx_start;
    uint64_t cycles_start;     // of the SM clock, at the scenario's start
    uint64_t pcie_wrap;        // the PCIe counters' modulus, 0: none
    int64_t lost_us, reset_us; // from when on it is lost; when its counters began again at zero
    double idle[STUB_QUANTITIES];
    uint64_t idle_reasons;
    uint32_t idle_pstate, pad;
    struct stub_segment segment[STUB_MAX_SEGMENTS];
};

// A MIG device: a compute instance in a GPU instance. Of several in one GPU instance the first
// one's load and memory are those of the GPU instance.
struct stub_instance {
    uint64_t id; // never used twice
    char uuid[48], profile[16];
    uint32_t gpu, place; // the how manieth MIG device of its GPU
    uint32_t gi, ci, slices, ci_slices, sms, segments;
    uint32_t copy_engines, decoders, encoders, jpegs, ofas, pad;
    uint64_t mem_total, mem_reserved, bar1_total, bar1_used;
    double idle[STUB_QUANTITIES];
    struct stub_segment segment[STUB_MAX_INSTANCE_SEGMENTS];
};

struct stub_process {
    uint32_t pid, gpus, type; // type: 0 compute, 1 graphics, 2 MPS client
    uint32_t instance;        // 0: of none; else 1 + 256 times the GPU instance + the compute instance
    uint64_t used_bytes;
    int64_t from_us, to_us; // in the cycle where the scenario repeats
    char name[32];
};

struct stub_event {
    uint64_t id;   // never used twice, and higher than that of all events before it
    int64_t at_us; // since the scenario's start, whether it repeats or not
    uint64_t type, data;
    uint32_t gpu, instance; // instance: as that of a process
};

struct stub_fault {
    char function[64]; // a name, a beginning and '*', or '*'
    uint64_t id;       // never used twice
    uint32_t gpus;
    int32_t code;      // what is returned; 0: only the delay
    int64_t delay_us;  // of the real clock
    int64_t from_us, to_us;
};

struct stub_config {
    uint32_t gpus, processes, events, faults, instances;
    uint32_t unprivileged; // 1: the caller is, to the driver, nobody special
    uint32_t manual, host; // host is for Go alone, and next_id too; manual 1: header.now_us is the time
    int32_t cuda_version, pad1;
    int64_t base_boot_us, base_epoch_us; // the scenario's start
    int64_t repeat_us;                   // length of the cycle, 0: plays once
    uint32_t driver_epoch;               // rises when the driver is replaced: the library of before is not its own
    uint32_t cc_capable, cc_environment, cc_feature, cc_devtools, cc_multi_gpu, cc_ready, blocked;
    char block[STUB_MAX_BLOCKED][64];    // functions that do not work in confidential computing
    uint64_t next_id;                    // of MIG devices and events
    char driver[80], nvml[80];
    struct stub_gpu gpu[STUB_MAX_GPUS];
    struct stub_instance instance[STUB_MAX_INSTANCES];
    struct stub_process process[STUB_MAX_PROCESSES];
    struct stub_event event[STUB_MAX_EVENTS];
    struct stub_fault fault[STUB_MAX_FAULTS];
};

struct stub_header {
    char magic[8];
    uint32_t version, pad;
    uint64_t size, config_offset, functions_offset;
    uint64_t seq;   // odd while config is being written
    int64_t now_us; // where config.manual is 1
    int64_t fault_left[STUB_MAX_FAULTS]; // how many more calls; below 0: no end
    uint32_t in_flight[STUB_MAX_GPUS + 1];   // calls under way, of all processes
    uint32_t most_at_once[STUB_MAX_GPUS + 1]; // the most that one process had under way
    char reserved[4096 - 312 - 2 * 4 * (STUB_MAX_GPUS + 1)];
};

struct stub_function {
    char name[64];
    uint32_t state, pad; // 0 free, 1 being named, 2 named
    uint64_t calls[STUB_MAX_GPUS + 1];
};

struct stub_memory {
    struct stub_header header;
    struct stub_config config;
    struct stub_function function[STUB_MAX_FUNCTIONS];
};

#endif
