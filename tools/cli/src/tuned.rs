//! What `ropeway bench tune` measured of a device, in a file of the user's cache folder: one for each device and driver.
//!
//! The folder is `$ROPEWAY_CACHE`, else `$XDG_CACHE_HOME/ropeway`, else `~/.cache/ropeway`; an empty variable counts as unset.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use ropeway::inspect::{DeviceLimits, DeviceRates, MeasuredRates};
use serde::{Deserialize, Serialize};

/// A file of another version is measured anew.
const VERSION: u32 = 1;

/// No file is longer.
const FILE_BYTES: u64 = 1 << 16;

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tuned {
    version: u32,
    /// Which ropeway has measured.
    ropeway: String,
    /// The device, as its driver calls it.
    device: String,
    /// The CUDA version that the driver is for.
    driver: String,
    /// It is softcuda, on which the figures mean nothing.
    simulated: bool,
    #[serde(flatten)]
    figures: Figures,
}

/// What was measured; what was not is left to the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// See [`MeasuredRates`], as all of these.
    pub launch_micros: Option<f64>,
    pub dram_gb_per_s: Option<f64>,
    pub l2_gb_per_s: Option<f64>,
    pub reached: Option<f64>,
    pub sm90_speed: Option<f64>,
}

impl Figures {
    /// With these where nothing was measured.
    pub fn or(self, rates: MeasuredRates) -> MeasuredRates {
        MeasuredRates {
            launch_micros: self.launch_micros.unwrap_or(rates.launch_micros),
            dram_gb_per_s: self.dram_gb_per_s.unwrap_or(rates.dram_gb_per_s),
            l2_gb_per_s: self.l2_gb_per_s.unwrap_or(rates.l2_gb_per_s),
            reached: self.reached.unwrap_or(rates.reached),
            sm90_speed: self.sm90_speed.unwrap_or(rates.sm90_speed),
        }
    }

    fn all(&self) -> [Option<f64>; 5] {
        [
            self.launch_micros,
            self.dram_gb_per_s,
            self.l2_gb_per_s,
            self.reached,
            self.sm90_speed,
        ]
    }
}

impl Tuned {
    pub fn new(device: &DeviceLimits, figures: Figures) -> Tuned {
        Tuned {
            version: VERSION,
            ropeway: env!("CARGO_PKG_VERSION").into(),
            device: device.name.clone(),
            driver: device.driver.clone(),
            simulated: device.simulated,
            figures,
        }
    }

    /// The figures, if this is of the device and means what this version takes it for.
    fn of(self, device: &DeviceLimits) -> Result<Figures, String> {
        if self.version != VERSION {
            return Err(format!("it is of version {}, not {VERSION}", self.version));
        }
        if (&self.device, &self.driver) != (&device.name, &device.driver) {
            return Err(format!(
                "it is of {}, driver for CUDA {}",
                self.device, self.driver
            ));
        }
        let sound = |figure: f64| figure.is_finite() && figure > 0.0;
        match self
            .figures
            .all()
            .into_iter()
            .flatten()
            .find(|&figure| !sound(figure))
        {
            Some(figure) => Err(format!("{figure} is no time and no rate")),
            None => Ok(self.figures),
        }
    }

    /// Writes it to its place, whole or not at all, and says where that is.
    ///
    /// # Errors
    /// The folder or the file, and what went wrong.
    pub fn write(&self, folder: &Path) -> Result<PathBuf, (PathBuf, io::Error)> {
        let path = folder.join(file_name(&self.device, &self.driver));
        let mut text = serde_json::to_string_pretty(self).expect("the keys are strings");
        text.push('\n');
        let write = || {
            fs::create_dir_all(folder)?;
            // A name that no other run has, in the same file system.
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(text.as_bytes())?;
            file.persist(&path)?;
            Ok(())
        };
        match write() {
            Ok(()) => Ok(path),
            Err(problem) => Err((path, problem)),
        }
    }
}

/// The folder of the files, if the user has a home.
pub fn folder() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let own = variable("ROPEWAY_CACHE").map(PathBuf::from);
    let shared = || variable("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::home_dir().map(|home| home.join(".cache"));
    let cache = own.or_else(|| Some(shared().or_else(home)?.join("ropeway")))?;
    Some(cache.join("tune"))
}

/// `nvidia-h200-cuda-13.0.json`
fn file_name(device: &str, driver: &str) -> String {
    let plain = |text: &str| -> String {
        let plain = |c: char| {
            if c.is_ascii_alphanumeric() || c == '.' {
                c
            } else {
                '-'
            }
        };
        text.to_ascii_lowercase().chars().map(plain).collect()
    };
    format!("{}-cuda-{}.json", plain(device), plain(driver))
}

/// What a file has of a device. `None` where there is no file.
///
/// # Errors
/// Why there is one and it is not taken.
pub fn read(folder: &Path, device: &DeviceLimits) -> Result<Option<Figures>, String> {
    let path = folder.join(file_name(&device.name, &device.driver));
    let text = || {
        let mut text = String::new();
        File::open(&path)?.take(FILE_BYTES).read_to_string(&mut text)?;
        Ok(text)
    };
    let figures = match text() {
        Ok(text) => serde_json::from_str(&text)
            .map_err(|problem| problem.to_string())
            .and_then(|tuned: Tuned| tuned.of(device)),
        Err(problem) if io::Error::kind(&problem) == io::ErrorKind::NotFound => return Ok(None),
        Err(problem) => Err(problem.to_string()),
    };
    let told = |problem| {
        format!(
            "{}: {problem}; the device's table is taken in its place, until `ropeway bench tune` has written the file anew",
            path.display()
        )
    };
    figures.map(Some).map_err(told)
}

/// A device with what its file has, and a warning where that is not sound.
pub fn apply(rates: DeviceRates, device: &DeviceLimits) -> (DeviceRates, Option<String>) {
    let found = folder().map_or(Ok(None), |folder| read(&folder, device));
    match found {
        Ok(Some(figures)) => {
            let measured = figures.or(rates.rates);
            (rates.measured(measured), None)
        }
        Ok(None) => (rates, None),
        Err(problem) => (rates, Some(problem)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str) -> DeviceLimits {
        DeviceLimits {
            name: name.into(),
            simulated: false,
            uuid: String::new(),
            capability: (9, 0),
            multiprocessors: 132,
            clock_khz: 1_980_000,
            memory_clock_khz: 3_201_000,
            memory_bus_bits: 6016,
            l2_bytes: 60 << 20,
            memory_bytes: 1 << 37,
            driver: "13.0".into(),
        }
    }

    #[test]
    fn what_was_written_is_read_and_what_is_unsound_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        // Made with the file.
        let folder = folder.path().join("some/tune");
        let h200 = device("NVIDIA H200");
        assert_eq!(read(&folder, &h200), Ok(None));
        let figures = Figures {
            launch_micros: Some(1.5),
            reached: Some(0.6),
            ..Figures::default()
        };
        let tuned = Tuned::new(&h200, figures);
        let path = tuned.write(&folder).unwrap();
        assert!(path.ends_with("some/tune/nvidia-h200-cuda-13.0.json"), "{path:?}");
        assert_eq!(read(&folder, &h200), Ok(Some(figures)));
        assert_eq!(read(&folder, &device("NVIDIA L4")), Ok(None));
        // Nothing beside it is left.
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        let rates = DeviceRates::named("h200").unwrap();
        let measured = figures.or(rates.rates);
        assert_eq!((measured.launch_micros, measured.reached), (1.5, 0.6));
        assert_eq!(measured.dram_gb_per_s, rates.rates.dram_gb_per_s);

        let good = fs::read_to_string(&path).unwrap();
        let other = tuned.clone();
        for (text, why) in [
            (
                good.replace("\"version\": 1", "\"version\": 2"),
                "version 2, not 1",
            ),
            (good.replace("1.5", "0.0"), "0 is no time and no rate"),
            (good.replace("1.5", "-1.5"), "-1.5 is no time"),
            (good.replace("1.5", "1e999"), "out of range"),
            (good.replace("1.5", "\"fast\""), "invalid type"),
            (good.replace("13.0", "12.8"), "driver for CUDA 12.8"),
            (good[..good.len() / 2].to_owned(), "EOF"),
            (String::new(), "EOF"),
            (good.clone() + &" ".repeat(1 << 17) + "x", ""),
        ] {
            fs::write(&path, &text).unwrap();
            let read = read(&folder, &h200);
            if why.is_empty() {
                // What is past the limit is not read.
                assert_eq!(read, Ok(Some(figures)));
                continue;
            }
            let problem = read.unwrap_err();
            assert!(
                problem.contains(why) && problem.contains("nvidia-h200-cuda-13.0.json"),
                "{problem}"
            );
        }
        other.write(&folder).unwrap();
        assert_eq!(read(&folder, &h200), Ok(Some(figures)));
    }
}
