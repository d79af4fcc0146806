//! Settings of a run: threads, order, checks, counters; from the environment or from Rust.

use std::path::PathBuf;

use super::check::Check;

/// How kernels are run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Host threads that run blocks.
    pub threads: usize,
    /// Shuffles blocks and warps; `None`: everything in order. One thread and no seed is deterministic.
    pub seed: Option<u64>,
    /// Warp instructions without a change in memory until a block counts as deadlocked.
    pub spin_limit: u64,
    /// Whether memory traffic is counted.
    pub counters: bool,
    /// Where each launch's counters are appended as a line of JSON.
    pub counters_file: Option<PathBuf>,
    /// Checks that are not reported (of those after which a kernel can go on).
    pub without: Vec<Check>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            seed: None,
            spin_limit: 20_000_000,
            counters: false,
            counters_file: None,
            without: Vec::new(),
        }
    }
}

impl Settings {
    /// From the environment: `SOFTCUDA_THREADS`, `SOFTCUDA_SEED`, `SOFTCUDA_SPIN_LIMIT`, `SOFTCUDA_CHECKS`,
    /// `SOFTCUDA_COUNTERS`. The error says what is understood.
    pub fn from_env() -> Result<Self, String> {
        let mut settings = Self::default();
        let number = |name: &str| -> Result<Option<u64>, String> {
            match std::env::var(name) {
                Err(_) => Ok(None),
                Ok(text) => match text.trim().parse() {
                    Ok(value) => Ok(Some(value)),
                    Err(_) => Err(format!("{name}={text}: a whole number is expected")),
                },
            }
        };
        if let Some(threads) = number("SOFTCUDA_THREADS")? {
            if threads == 0 {
                return Err("SOFTCUDA_THREADS=0: at least one thread is needed".to_owned());
            }
            settings.threads = threads as usize;
        }
        settings.seed = number("SOFTCUDA_SEED")?;
        if let Some(limit) = number("SOFTCUDA_SPIN_LIMIT")? {
            settings.spin_limit = limit;
        }
        let file = std::env::var_os("SOFTCUDA_COUNTERS").filter(|path| !path.is_empty());
        settings.counters_file = file.map(PathBuf::from);
        if let Some(path) = &settings.counters_file {
            // A place that cannot be written to is told of now, not after the first kernel.
            let opened = std::fs::OpenOptions::new().append(true).create(true).open(path);
            opened.map_err(|error| format!("SOFTCUDA_COUNTERS={}: {error}", path.display()))?;
            settings.counters = true;
        }
        if let Ok(list) = std::env::var("SOFTCUDA_CHECKS") {
            for name in list.split(',').map(str::trim).filter(|n| !n.is_empty()) {
                let check = name.strip_prefix('-').and_then(|name| {
                    Check::ALL
                        .iter()
                        .copied()
                        .find(|c| c.continues() && c.name() == name)
                });
                match check {
                    Some(check) => settings.without.push(check),
                    None => {
                        let names: Vec<String> = Check::ALL
                            .iter()
                            .filter(|c| c.continues())
                            .map(|c| format!("-{}", c.name()))
                            .collect();
                        return Err(format!(
                            "SOFTCUDA_CHECKS={list}: `{name}` is not one of {}",
                            names.join(", ")
                        ));
                    }
                }
            }
        }
        Ok(settings)
    }
}
