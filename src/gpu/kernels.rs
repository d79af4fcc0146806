//! The kernels that this build embeds.

/// The kernels that this build embeds: a table written by `build.rs`.
#[derive(Debug)]
pub struct Kernels {
    /// The compiler with its version, `nvcc 13.0.88`; or why there are no kernels.
    pub compiler: Result<&'static str, &'static str>,
    /// One per file, ordered by name; none without a compiler.
    pub modules: &'static [KernelModule],
}

/// The kernels of one file under `cuda/`.
#[derive(Debug)]
pub struct KernelModule {
    /// The file's path there, without extension: `embed`, `sm90/gemm`.
    pub name: &'static str,
    /// What the image holds: machine code (`sm_80`) and PTX (`compute_80`), which the driver of a
    /// later GPU compiles when it loads the image.
    pub architectures: &'static [&'static str],
    /// The fatbin, not compressed, aligned to 16 bytes.
    pub image: &'static [u8],
    /// What the compiler said: registers, barriers and shared memory of each kernel per architecture.
    pub log: &'static str,
}

/// The kernels that this build embeds.
pub fn kernels() -> &'static Kernels {
    static KERNELS: Kernels = include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
    &KERNELS
}

/// Bytes at an address that the driver can read words from.
#[allow(dead_code)] // The table is empty without nvcc.
#[repr(C, align(16))]
struct Aligned<T>(T);

#[cfg(test)]
mod tests;
