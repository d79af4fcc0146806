//! What `ptxas -v` says of kernels.

/// Figures of one kernel for one architecture.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    pub kernel: String,
    /// `sm_90`, `sm_90a`
    pub target: String,
    /// Per thread.
    pub registers: u32,
    pub stack_bytes: u32,
    pub spill_store_bytes: u32,
    pub spill_load_bytes: u32,
    /// Static shared memory.
    pub shared_bytes: u32,
}

/// Everything that one output of `ptxas -v` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ptxas {
    pub kernels: Vec<Figures>,
}

impl Ptxas {
    /// Reads the output; lines of other kinds are skipped over.
    pub fn parse(text: &str) -> Self {
        let mut kernels: Vec<Figures> = Vec::new();
        // Properties of device functions come between those of kernels and are nobody's here.
        let mut own_properties = false;
        for line in text.lines() {
            let mut quoted = line.split('\'').skip(1).step_by(2);
            if line.contains("Compiling entry function")
                && let (Some(kernel), Some(target)) = (quoted.next(), quoted.next())
            {
                kernels.push(Figures {
                    kernel: kernel.to_owned(),
                    target: target.to_owned(),
                    ..Figures::default()
                });
                own_properties = false;
            }
            let Some(figures) = kernels.last_mut() else {
                continue;
            };
            if let Some((_, function)) = line.split_once("Function properties for ") {
                own_properties = function.trim() == figures.kernel;
            } else if line.contains("bytes stack frame") {
                if own_properties {
                    figures.stack_bytes = before(line, "bytes stack frame").unwrap_or(0);
                    figures.spill_store_bytes = before(line, "bytes spill stores").unwrap_or(0);
                    figures.spill_load_bytes = before(line, "bytes spill loads").unwrap_or(0);
                }
            } else if let Some(registers) = before(line, "registers") {
                figures.registers = registers;
                figures.shared_bytes = before(line, "bytes smem").unwrap_or(0);
            }
        }
        kernels.retain(|figures| figures.registers > 0);
        Self { kernels }
    }

    /// A kernel's figures for a device of this compute capability; for the nearest older one without.
    pub fn find(&self, kernel: &str, capability: u32) -> Option<&Figures> {
        let number = |figures: &Figures| -> Option<u32> {
            let digits: String = figures.target.chars().filter(char::is_ascii_digit).collect();
            digits.parse().ok()
        };
        self.kernels
            .iter()
            .filter(|figures| figures.kernel == kernel)
            .filter(|figures| number(figures).is_some_and(|n| n <= capability))
            .max_by_key(|figures| number(figures))
    }
}

/// The number in front of `what`.
fn before(line: &str, what: &str) -> Option<u32> {
    let (front, _) = line.split_once(what)?;
    front
        .split([' ', ','])
        .rfind(|word| !word.is_empty())?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// nvcc 13.0's output for two architectures, with a function that is not inlined and one that spills.
    const TEXT: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'k' for 'sm_80'
ptxas info    : Function properties for k
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 12 registers, used 1 barriers, 256 bytes smem, 360 bytes cmem[0]
ptxas info    : Function properties for helper
    64 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
ptxas info    : Compile time = 20.934 ms
ptxas info    : Compiling entry function 'k' for 'sm_90a'
ptxas info    : Function properties for k
    24 bytes stack frame, 40 bytes spill stores, 52 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers, 24 bytes cumulative stack size
";

    #[test]
    fn reads_every_kernel_and_architecture() {
        let ptxas = Ptxas::parse(TEXT);
        assert_eq!(ptxas.kernels.len(), 2);
        let ampere = ptxas.find("k", 80).unwrap();
        assert_eq!(
            (ampere.registers, ampere.shared_bytes, ampere.stack_bytes),
            (12, 256, 0)
        );
        // An L40S runs the code for sm_80.
        assert_eq!(ptxas.find("k", 89), Some(ampere));
        let hopper = ptxas.find("k", 90).unwrap();
        assert_eq!((hopper.registers, hopper.shared_bytes), (168, 0));
        assert_eq!(
            (
                hopper.stack_bytes,
                hopper.spill_store_bytes,
                hopper.spill_load_bytes
            ),
            (24, 40, 52)
        );
        assert_eq!(ptxas.find("k", 75), None);
        assert_eq!(ptxas.find("other", 90), None);
    }
}
