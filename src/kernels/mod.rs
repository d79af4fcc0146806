//! The kernels as data: the table of those that this build embeds, the architectures that they are compiled for, and
//! the structs and constants that they share with the host. No driver; `gpu` loads and launches them.

#[allow(dead_code)] // Some constants are for the kernels alone.
#[rustfmt::skip] // As bindgen writes it.
pub(crate) mod params;

/// The kernels that this build embeds. `build.rs` writes the table.
#[derive(Debug)]
pub struct Kernels {
    /// The compiler with its version, `nvcc 13.0.88`; or the reason why there are no kernels.
    pub compiler: Result<&'static str, &'static str>,
    /// The compiler's version of CUDA, major and minor, which says what driver the images need: see
    /// [`check`](Kernels::check). `(0, 0)` without a compiler.
    pub cuda: (u32, u32),
    /// One per file, ordered by name; none without a compiler.
    pub modules: &'static [KernelModule],
}

/// The kernels of one file under `cuda/`.
#[derive(Debug)]
pub struct KernelModule {
    /// The file's path there, without extension: `embed`, `sm90/gemm`.
    pub name: &'static str,
    /// The architectures in the image: machine code (`sm_80`), and PTX (`compute_90`), which the driver of a later GPU
    /// compiles when it loads the image.
    pub architectures: &'static [&'static str],
    /// The fatbin, not compressed, aligned to 16 bytes.
    pub image: &'static [u8],
    /// The compiler's log: registers, barriers and shared memory of each kernel per architecture.
    #[cfg_attr(not(feature = "inspect"), allow(dead_code))]
    pub log: &'static str,
}

/// The kernels that this build embeds.
pub fn kernels() -> &'static Kernels {
    static KERNELS: Kernels = include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
    &KERNELS
}

impl Kernels {
    /// Checks that a device of this compute capability, with a driver for this version of CUDA, runs every module that is
    /// not compiled for other GPUs alone.
    ///
    /// # Errors
    /// A message that names the device's compute capability and the architectures that are embedded, or the driver's
    /// version and the one that is needed.
    pub fn check(&self, capability: (u32, u32), driver: (u32, u32)) -> Result<(), String> {
        if let Err(reason) = self.compiler {
            return Err(format!("this build has no GPU kernels: {reason}"));
        }
        for module in self.modules.iter().filter(|module| !module.specific()) {
            let Some(image) = module.fit(capability) else {
                return Err(format!(
                    "compute capability {}.{}, and the kernels of this build are for {}",
                    capability.0,
                    capability.1,
                    module.architectures.join(", ")
                ));
            };
            // Machine code runs on any driver for the compiler's major version; PTX is compiled by drivers that are not
            // older than the compiler (CUDA Compatibility, "Minor Version Compatibility" and its limitations).
            let (major, minor) = self.cuda;
            let needed = if image.starts_with("sm_") {
                (major, 0)
            } else {
                (major, minor)
            };
            if driver < needed {
                return Err(format!(
                    "the driver is for CUDA {}.{}, and the kernels of this build ({image}) need {}.{}: install {}, or build \
                     ropeway with nvcc of an older CUDA (12.4 or later)",
                    driver.0,
                    driver.1,
                    needed.0,
                    needed.1,
                    driver_for(needed)
                ));
            }
        }
        Ok(())
    }
}

/// The first driver for a version of CUDA, for people ("CUDA Toolkit and Minimum Required Driver Version" in CUDA's release
/// notes).
fn driver_for((major, minor): (u32, u32)) -> String {
    match (major, minor) {
        (12, 0) => "NVIDIA's driver 525 or newer".into(),
        (13, 0) => "NVIDIA's driver 580 or newer".into(),
        (major, minor) => format!("NVIDIA's driver for CUDA {major}.{minor} or newer"),
    }
}

impl KernelModule {
    /// The architecture of the image that a device of this compute capability runs, if there is one: machine code if
    /// possible, else PTX, which the driver compiles.
    pub fn fit(&self, capability: (u32, u32)) -> Option<&'static str> {
        let fitting = self.architectures.iter().filter_map(|&architecture| {
            let parsed = Architecture::parse(architecture)?;
            parsed.fits(capability).then_some((parsed, architecture))
        });
        let best = fitting.max_by_key(|(parsed, _)| (parsed.machine_code, parsed.capability))?;
        Some(best.1)
    }

    /// Whether every architecture in the image is for one compute capability alone, not for later ones.
    fn specific(&self) -> bool {
        let mut parsed = self
            .architectures
            .iter()
            .filter_map(|name| Architecture::parse(name));
        parsed.all(|architecture| architecture.specific)
    }
}

/// An architecture's name, parsed: `sm_90a`.
struct Architecture {
    /// `sm_`, not `compute_`.
    machine_code: bool,
    capability: (u32, u32),
    /// The name ends in `a`: for this compute capability alone.
    specific: bool,
}

impl Architecture {
    fn parse(name: &str) -> Option<Architecture> {
        let (kind, number) = name.split_once('_')?;
        let digits = number.trim_end_matches('a');
        let capability: u32 = digits.parse().ok()?;
        Some(Architecture {
            machine_code: kind == "sm",
            capability: (capability / 10, capability % 10),
            specific: digits != number,
        })
    }

    /// Machine code runs on devices of the same major version with the same or a later minor version; PTX runs on
    /// every device of its version or later (CUDA programming guide, "Binary Compatibility", "PTX Compatibility").
    fn fits(&self, device: (u32, u32)) -> bool {
        match self {
            Architecture { specific: true, .. } => device == self.capability,
            Architecture {
                machine_code: true, ..
            } => device.0 == self.capability.0 && device.1 >= self.capability.1,
            Architecture { .. } => device >= self.capability,
        }
    }
}

/// Aligns an image so that the driver can read words from it.
#[allow(dead_code)] // The table is empty without nvcc.
#[repr(C, align(16))]
struct Aligned<T>(T);

#[cfg(test)]
mod tests;
