//! A report: a small file that is written in one go, perhaps several times in a run.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{destination, refuse_model_files, replaceable, take_permissions};
use crate::claim;
use crate::descriptor::Descriptor;
use crate::exit::{self, Exit};

/// Where a report goes. What is there stays until the new one is whole, and is no other file under a second name.
#[derive(Clone, Debug)]
pub struct ReportFile {
    path: PathBuf,
    /// Pipes and devices are written as they are.
    is_device: bool,
}

impl ReportFile {
    /// Looks whether a report can be written there, before minutes are spent on it; leaves nothing there.
    ///
    /// # Errors
    /// It is a folder, an open file, one that cannot be replaced, in a folder where no file can be made, or in one of
    /// `folders`, which the engine reads.
    pub fn new(path: &Path, folders: &[&Path]) -> Result<ReportFile, Exit> {
        let name = path.display();
        let found = fs::metadata(path);
        if found.as_ref().is_ok_and(fs::Metadata::is_dir) {
            return Err(Exit::usage(format!("{name}: is a folder; give a file's name")));
        }
        if found.is_ok_and(|meta| !meta.is_file()) {
            return Ok(ReportFile {
                path: path.to_owned(),
                is_device: true,
            });
        }
        if Descriptor::named(path).is_some() {
            return Err(Exit::usage(format!(
                "{name}: is a file that somebody has opened, and is not replaced; give its own name"
            )));
        }
        let failed = |error: io::Error| Exit::output_file(path, &error);
        let path = destination(path).map_err(failed)?;
        replaceable(&path).map_err(failed)?;
        refuse_model_files(&path, folders)?;
        tempfile::tempfile_in(claim::folder(&path)).map_err(failed)?;
        Ok(ReportFile {
            path,
            is_device: false,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes what there is of a report so far. Pipes and devices get it when it is whole, and what fails is tried again
    /// then: minutes of measuring do not end for it.
    pub fn update(&self, text: &str) {
        if !self.is_device {
            let _ = self.write(text);
        }
    }

    /// Writes the report, in the place of what is there.
    pub fn write(&self, text: &str) -> io::Result<()> {
        if self.is_device {
            let mut device = OpenOptions::new().write(true).open(&self.path)?;
            return device.write_all(text.as_bytes());
        }
        let replaced = replaceable(&self.path)?;
        let reserved = claim::reserve(&self.path);
        let _reserved = reserved.map_err(|exit| io::Error::other(exit::message(&exit).to_owned()))?;
        // Under a name that nobody knows before, so that nothing is written through what somebody put there.
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        if replaced.is_none() {
            builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        }
        let mut file = builder.tempfile_in(claim::folder(&self.path))?;
        file.write_all(text.as_bytes())?;
        if let Some(replaced) = &replaced {
            take_permissions(file.as_file(), replaced)?;
        }
        file.as_file().sync_all()?;
        file.persist(&self.path)?;
        Ok(())
    }
}
