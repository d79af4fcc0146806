//! The devices that softcuda presents, with the limits and attributes that NVIDIA publishes for the real ones.

/// One model of device.
///
/// Everything on which a program may decide (limits, sizes, capabilities) is that of the real device; what softcuda
/// cannot do (textures, inter-process handles, managed memory that pages) is reported as absent.
#[derive(Debug)]
pub struct Profile {
    /// As `SOFTCUDA_DEVICE` names it.
    pub key: &'static str,
    /// The device's name.
    pub name: &'static str,
    pub major: i32,
    pub minor: i32,
    pub multiprocessors: u32,
    /// Bytes of device memory.
    pub memory: u64,
    pub l2_bytes: u32,
    /// Bytes of shared memory that a block may have: without asking, and having asked
    /// (`CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`).
    pub shared_per_block: u32,
    pub shared_per_block_optin: u32,
    pub shared_per_multiprocessor: u32,
    /// What the system takes of each block's shared memory.
    pub shared_reserved: u32,
    pub threads_per_block: u32,
    pub threads_per_multiprocessor: u32,
    pub blocks_per_multiprocessor: u32,
    pub registers_per_block: u32,
    pub registers_per_multiprocessor: u32,
    pub constant_bytes: u32,
    pub clock_khz: u32,
    pub memory_clock_khz: u32,
    pub memory_bus_bits: u32,
    pub async_engines: u32,
    pub persisting_l2_bytes: u32,
    /// Single to double precision performance.
    pub double_ratio: u32,
    pub ecc: bool,
    pub pci_device: u32,
    /// Multiprocessors of each graphics processing cluster, within one of which the blocks of a cluster lie. What is sold
    /// differs from one device to the next; these add up, and hold as many clusters as have been seen.
    pub graphics_clusters: &'static [u32],
    /// Thread block clusters, bulk copies, tensor maps.
    pub hopper: bool,
    /// Blocks per cluster that every device of the kind can place.
    pub portable_cluster: u32,
    /// The same with `CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED`.
    pub largest_cluster: u32,
}

pub const WARP: u32 = 32;
pub const MAX_GRID: [u32; 3] = [i32::MAX as u32, 65535, 65535];
pub const MAX_BLOCK: [u32; 3] = [1024, 1024, 64];

/// A100 80 GB.
pub static SM_80: Profile = Profile {
    key: "sm_80",
    name: "softcuda sm_80 (as NVIDIA A100-SXM4-80GB)",
    major: 8,
    minor: 0,
    multiprocessors: 108,
    memory: 85_094_825_984,
    l2_bytes: 40 << 20,
    shared_per_block: 48 << 10,
    shared_per_block_optin: 163 << 10,
    shared_per_multiprocessor: 164 << 10,
    shared_reserved: 1 << 10,
    threads_per_block: 1024,
    threads_per_multiprocessor: 2048,
    blocks_per_multiprocessor: 32,
    registers_per_block: 65536,
    registers_per_multiprocessor: 65536,
    constant_bytes: 65536,
    clock_khz: 1_410_000,
    memory_clock_khz: 1_593_000,
    memory_bus_bits: 5120,
    async_engines: 3,
    persisting_l2_bytes: 25 << 20,
    double_ratio: 2,
    ecc: true,
    pci_device: 0x20B2,
    graphics_clusters: &[],
    hopper: false,
    portable_cluster: 1,
    largest_cluster: 1,
};

/// L40S.
pub static SM_89: Profile = Profile {
    key: "sm_89",
    name: "softcuda sm_89 (as NVIDIA L40S)",
    major: 8,
    minor: 9,
    multiprocessors: 142,
    memory: 47_697_362_944,
    l2_bytes: 96 << 20,
    shared_per_block: 48 << 10,
    shared_per_block_optin: 99 << 10,
    shared_per_multiprocessor: 100 << 10,
    shared_reserved: 1 << 10,
    threads_per_block: 1024,
    threads_per_multiprocessor: 1536,
    blocks_per_multiprocessor: 24,
    registers_per_block: 65536,
    registers_per_multiprocessor: 65536,
    constant_bytes: 65536,
    clock_khz: 2_520_000,
    memory_clock_khz: 9_001_000,
    memory_bus_bits: 384,
    async_engines: 2,
    persisting_l2_bytes: 66 << 20,
    double_ratio: 64,
    ecc: true,
    pci_device: 0x26B9,
    graphics_clusters: &[],
    hopper: false,
    portable_cluster: 1,
    largest_cluster: 1,
};

/// H200.
pub static SM_90: Profile = Profile {
    key: "sm_90",
    name: "softcuda sm_90 (as NVIDIA H200)",
    major: 9,
    minor: 0,
    multiprocessors: 132,
    memory: 150_110_011_392,
    l2_bytes: 60 << 20,
    shared_per_block: 48 << 10,
    shared_per_block_optin: 227 << 10,
    shared_per_multiprocessor: 228 << 10,
    shared_reserved: 1 << 10,
    threads_per_block: 1024,
    threads_per_multiprocessor: 2048,
    blocks_per_multiprocessor: 32,
    registers_per_block: 65536,
    registers_per_multiprocessor: 65536,
    constant_bytes: 65536,
    clock_khz: 1_980_000,
    memory_clock_khz: 3_201_000,
    memory_bus_bits: 6144,
    async_engines: 3,
    persisting_l2_bytes: 30 << 20,
    double_ratio: 2,
    ecc: true,
    pci_device: 0x2335,
    graphics_clusters: &[18, 18, 18, 16, 16, 16, 16, 14],
    hopper: true,
    portable_cluster: 8,
    largest_cluster: 16,
};

/// H100 SXM.
pub static SM_90_H100: Profile = Profile {
    key: "sm_90-h100",
    name: "softcuda sm_90 (as NVIDIA H100 80GB HBM3)",
    major: 9,
    minor: 0,
    multiprocessors: 132,
    memory: 85_029_158_912,
    l2_bytes: 50 << 20,
    shared_per_block: 48 << 10,
    shared_per_block_optin: 227 << 10,
    shared_per_multiprocessor: 228 << 10,
    shared_reserved: 1 << 10,
    threads_per_block: 1024,
    threads_per_multiprocessor: 2048,
    blocks_per_multiprocessor: 32,
    registers_per_block: 65536,
    registers_per_multiprocessor: 65536,
    constant_bytes: 65536,
    clock_khz: 1_980_000,
    memory_clock_khz: 2_619_000,
    memory_bus_bits: 5120,
    async_engines: 3,
    persisting_l2_bytes: 30 << 20,
    double_ratio: 2,
    ecc: true,
    pci_device: 0x2330,
    graphics_clusters: &[18, 18, 18, 16, 16, 16, 16, 14],
    hopper: true,
    portable_cluster: 8,
    largest_cluster: 16,
};

static ALL: [&Profile; 4] = [&SM_80, &SM_89, &SM_90, &SM_90_H100];

/// The devices that a list such as `sm_80,sm_90` asks for, in its order.
pub fn select(list: &str) -> Result<Vec<&'static Profile>, String> {
    list.split(',')
        .map(str::trim)
        .map(|key| {
            ALL.into_iter().find(|profile| profile.key == key).ok_or_else(|| {
                let known: Vec<_> = ALL.iter().map(|profile| profile.key).collect();
                format!(
                    "SOFTCUDA_DEVICE={list}: `{key}` is not a device; known are {}",
                    known.join(", ")
                )
            })
        })
        .collect()
}

impl Profile {
    /// Compute capability as one number: 80, 89, 90.
    pub fn capability(&self) -> u32 {
        (self.major * 10 + self.minor) as u32
    }

    /// The value of a `CUdevice_attribute`; `None` for a number that cuda.h 13.0 does not have.
    ///
    /// `ordinal` is the device's number: it stands for the place on the PCI bus.
    pub fn attribute(&self, attribute: u32, ordinal: u32) -> Option<i32> {
        let hopper = i32::from(self.hopper);
        let value = match attribute {
            1 => self.threads_per_block as i32,
            2..=4 => MAX_BLOCK[attribute as usize - 2] as i32,
            5..=7 => MAX_GRID[attribute as usize - 5] as i32,
            8 => self.shared_per_block as i32,
            9 => self.constant_bytes as i32,
            10 => WARP as i32,
            // MAX_PITCH
            11 => i32::MAX,
            12 => self.registers_per_block as i32,
            13 => self.clock_khz as i32,
            // TEXTURE_ALIGNMENT, GPU_OVERLAP
            14 => 512,
            15 => 1,
            16 => self.multiprocessors as i32,
            // KERNEL_EXEC_TIMEOUT, INTEGRATED
            17 | 18 => 0,
            // CAN_MAP_HOST_MEMORY
            19 => 1,
            // COMPUTE_MODE: default
            20 => 0,
            // The greatest textures and surfaces: there are none.
            21..=29 => 0,
            30 => 512,
            // CONCURRENT_KERNELS
            31 => 1,
            32 => i32::from(self.ecc),
            33 => ordinal as i32 + 1,
            34 | 35 => 0,
            36 => self.memory_clock_khz as i32,
            37 => self.memory_bus_bits as i32,
            38 => self.l2_bytes as i32,
            39 => self.threads_per_multiprocessor as i32,
            40 => self.async_engines as i32,
            // UNIFIED_ADDRESSING
            41 => 1,
            42..=49 => 0,
            // PCI_DOMAIN_ID
            50 => 0,
            // TEXTURE_PITCH_ALIGNMENT
            51 => 32,
            52..=74 => 0,
            75 => self.major,
            76 => self.minor,
            77 => 0,
            // STREAM_PRIORITIES, GLOBAL_L1, LOCAL_L1
            78..=80 => 1,
            81 => self.shared_per_multiprocessor as i32,
            82 => self.registers_per_multiprocessor as i32,
            // MANAGED_MEMORY: there are no page faults to move memory by.
            83 => 0,
            84 => 0,
            85 => ordinal as i32,
            86 => 0,
            87 => self.double_ratio as i32,
            // PAGEABLE_MEMORY_ACCESS, CONCURRENT_MANAGED_ACCESS
            88 | 89 => 0,
            // COMPUTE_PREEMPTION, CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM
            90 | 91 => 1,
            // Stream memory operations: not supported.
            92..=94 => 0,
            // COOPERATIVE_LAUNCH; the multi-device form is gone.
            95 => 1,
            96 => 0,
            97 => self.shared_per_block_optin as i32,
            98 => 0,
            // HOST_REGISTER
            99 => 1,
            100..=105 => 0,
            106 => self.blocks_per_multiprocessor as i32,
            107 => 0,
            108 => self.persisting_l2_bytes as i32,
            // MAX_ACCESS_POLICY_WINDOW_SIZE
            109 => 128 << 20,
            110 => 0,
            111 => self.shared_reserved as i32,
            112..=114 => 0,
            // MEMORY_POOLS
            115 => 1,
            116..=119 => 0,
            // CLUSTER_LAUNCH
            120 => hopper,
            121..=125 => 0,
            // MEM_SYNC_DOMAIN_COUNT
            126 => 1 + 3 * hopper,
            // TENSOR_MAP_ACCESS
            127 => hopper,
            128 | 129 => 0,
            // NUMA_CONFIG: none, NUMA_ID
            130 => 0,
            131 => -1,
            132 | 133 => 0,
            // HOST_NUMA_ID
            134 => 0,
            135..=138 => 0,
            // PCI device (device and vendor), subsystem
            139 => (self.pci_device << 16 | 0x10DE) as i32,
            140 => 0,
            141..=147 => 0,
            _ => return None,
        };
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_gives_devices_in_its_order() {
        let devices = select("sm_90, sm_80").unwrap();
        assert_eq!(
            devices.iter().map(|d| d.capability()).collect::<Vec<_>>(),
            [90, 80]
        );
        let error = select("sm_80,sm_70").unwrap_err();
        assert!(error.contains("`sm_70`") && error.contains("sm_89"), "{error}");
    }

    #[test]
    fn published_limits() {
        // The CUDA programming guide's table of technical specifications per compute capability.
        for (profile, per_block, per_sm, threads, blocks) in [
            (&SM_80, 163, 164, 2048, 32),
            (&SM_89, 99, 100, 1536, 24),
            (&SM_90, 227, 228, 2048, 32),
        ] {
            assert_eq!(profile.attribute(97, 0), Some(per_block << 10));
            assert_eq!(profile.attribute(81, 0), Some(per_sm << 10));
            assert_eq!(profile.attribute(39, 0), Some(threads));
            assert_eq!(profile.attribute(106, 0), Some(blocks));
            assert_eq!(profile.attribute(148, 0), None);
            assert_eq!(profile.attribute(0, 0), None);
            assert!(profile.name.contains("softcuda"));
        }
        assert_eq!(SM_90.attribute(16, 0), Some(132));
        assert_eq!(SM_90.attribute(38, 0), Some(62_914_560));
    }
}
