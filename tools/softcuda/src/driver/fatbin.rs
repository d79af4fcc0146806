//! Fat binaries: the container in which nvcc puts machine code for several devices and PTX.
//!
//! A container is a 16-byte header and entries; each entry has a header of its own (whose length it gives) and its
//! image, which may be compressed: as one Zstandard frame (nvcc 13's default for PTX) or as one LZ4 block. Only the
//! PTX can be run here. Of the machine code (an ELF file) the register count of each kernel is read: PTX does not
//! have it, and occupancy depends on it.
//!
//! ```text
//! container  u32 magic 0xBA55ED50   u16 version   u16 header bytes   u64 bytes of all entries
//! entry      u16 kind (1 PTX, 2 ELF)   u16 version   u32 header bytes   u64 image bytes, padding included
//!            u32 compressed bytes   u32 options' offset   u16 minor   u16 major   u32 capability
//!            u32 name's offset   u32 name's bytes   u64 flags   u64 0   u64 bytes when decompressed
//! ```

use std::collections::HashMap;
use std::fmt;
use std::io::Read;

/// First word of a container.
pub const MAGIC: u32 = 0xBA55_ED50;
/// First word of the structure that the compiler puts around a container in a host program.
pub const WRAPPER_MAGIC: u32 = 0x4662_43B1;

const HEADER: usize = 16;
const ENTRY_HEADER: usize = 64;
const COMPRESSED_LZ4: u64 = 0x2000;
const COMPRESSED_ZSTD: u64 = 0x8000;
/// No kernel's code comes near this; a damaged length must not take the memory of the host.
const LARGEST_IMAGE: u64 = 1 << 30;

/// Why a fat binary cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FatbinError {
    /// Not a container, or damaged.
    Damaged(String),
    /// No PTX for this device.
    NoPtx(String),
}

impl fmt::Display for FatbinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FatbinError::Damaged(what) => write!(f, "damaged fat binary: {what}"),
            FatbinError::NoPtx(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for FatbinError {}

/// What a program loads from a fat binary.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    /// PTX text.
    pub ptx: Vec<u8>,
    /// Capability that the PTX was made for: 80.
    pub capability: u32,
    /// Registers per thread of kernels that come with machine code.
    pub registers: HashMap<String, u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ptx,
    Elf,
    Other(u16),
}

struct Entry<'a> {
    kind: Kind,
    capability: u32,
    compressed: u32,
    flags: u64,
    /// Bytes when decompressed.
    bytes: u64,
    image: &'a [u8],
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Bytes of the container that begins with this header; `None` when it is no container.
pub fn length(header: &[u8; HEADER]) -> Option<usize> {
    if u32_at(header, 0)? != MAGIC {
        return None;
    }
    let own = usize::from(u16_at(header, 6)?);
    usize::try_from(u64_at(header, 8)?).ok()?.checked_add(own)
}

fn entries(bytes: &[u8]) -> Result<Vec<Entry<'_>>, FatbinError> {
    let damaged = |what: &str| FatbinError::Damaged(what.to_owned());
    let header: &[u8; HEADER] = bytes
        .get(..HEADER)
        .and_then(|header| header.try_into().ok())
        .ok_or_else(|| damaged("shorter than its header"))?;
    let length = length(header).ok_or_else(|| damaged("its first word is not that of a fat binary"))?;
    let own = usize::from(u16_at(bytes, 6).unwrap_or(0));
    let mut rest = bytes
        .get(own.max(HEADER)..length)
        .ok_or_else(|| damaged("cut off"))?;
    let mut list = Vec::new();
    while !rest.is_empty() {
        let entry = || {
            let header = u32_at(rest, 4)? as usize;
            let image = usize::try_from(u64_at(rest, 8)?).ok()?;
            if header < ENTRY_HEADER {
                return None;
            }
            let end = header.checked_add(image)?;
            let found = Entry {
                kind: match u16_at(rest, 0)? {
                    1 => Kind::Ptx,
                    2 => Kind::Elf,
                    other => Kind::Other(other),
                },
                compressed: u32_at(rest, 16)?,
                capability: u32_at(rest, 28)?,
                flags: u64_at(rest, 40)?,
                bytes: u64_at(rest, 56)?,
                image: rest.get(header..end)?,
            };
            Some((found, end))
        };
        let (found, end) = entry().ok_or_else(|| damaged("an entry reaches beyond its end"))?;
        list.push(found);
        rest = &rest[end..];
    }
    Ok(list)
}

impl Entry<'_> {
    fn image(&self) -> Result<Vec<u8>, FatbinError> {
        let damaged = |what: String| FatbinError::Damaged(what);
        let zstd = self.flags & COMPRESSED_ZSTD != 0;
        let lz4 = self.flags & COMPRESSED_LZ4 != 0;
        if !zstd && !lz4 {
            return Ok(self.image.to_vec());
        }
        let image = self
            .image
            .get(..self.compressed as usize)
            .ok_or_else(|| damaged("an image reaches beyond its entry".into()))?;
        if self.bytes > LARGEST_IMAGE {
            return Err(damaged(format!("an image of {} bytes", self.bytes)));
        }
        let bytes = if zstd {
            let mut bytes = Vec::new();
            let decoder = ruzstd::decoding::StreamingDecoder::new(image)
                .map_err(|error| damaged(format!("Zstandard: {error}")))?;
            decoder
                .take(self.bytes + 1)
                .read_to_end(&mut bytes)
                .map_err(|error| damaged(format!("Zstandard: {error}")))?;
            bytes
        } else {
            lz4_flex::block::decompress(image, self.bytes as usize)
                .map_err(|error| damaged(format!("LZ4: {error}")))?
        };
        if bytes.len() as u64 != self.bytes {
            return Err(damaged(format!(
                "an image of {} bytes where {} were announced",
                bytes.len(),
                self.bytes
            )));
        }
        Ok(bytes)
    }
}

/// PTX text without the padding (NULs) that the compiler puts around it.
fn trim(text: Vec<u8>) -> Vec<u8> {
    let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
    text[..end].to_vec()
}

/// The `.target` of a PTX text: capability, and whether it is for that one architecture (`sm_90a`) or its family
/// (`sm_100f`) only.
pub fn target(ptx: &[u8]) -> Option<(u32, Option<char>)> {
    let text = String::from_utf8_lossy(ptx);
    let line = text
        .lines()
        .map(str::trim)
        .find(|line| line.starts_with(".target"))?;
    let name = line[".target".len()..].trim_start().strip_prefix("sm_")?;
    let digits = name.bytes().take_while(u8::is_ascii_digit).count();
    let suffix = name[digits..].chars().next().filter(|c| c.is_ascii_alphabetic());
    Some((name[..digits].parse().ok()?, suffix))
}

/// Whether a device of this capability runs PTX of that target.
pub fn runs(capability: u32, target: (u32, Option<char>)) -> bool {
    match target.1 {
        None => target.0 <= capability,
        Some(_) => target.0 == capability,
    }
}

/// What to add to nvcc's command line so that there is PTX for the device.
pub fn flag_to_add(capability: u32) -> String {
    format!("-gencode arch=compute_{capability},code=compute_{capability}")
}

/// Takes the best PTX for a device of this capability: the newest that it can run.
pub fn load(bytes: &[u8], capability: u32) -> Result<Loaded, FatbinError> {
    let mut best: Option<Loaded> = None;
    let mut present = Vec::new();
    let mut code: Vec<(u32, HashMap<String, u32>)> = Vec::new();
    for entry in entries(bytes)? {
        match entry.kind {
            Kind::Ptx => {
                let ptx = trim(entry.image()?);
                let target = target(&ptx).unwrap_or((entry.capability, None));
                present.push(match target.1 {
                    Some(suffix) => format!("PTX for compute_{}{suffix}", target.0),
                    None => format!("PTX for compute_{}", target.0),
                });
                // Of the same number the specific one (90a before 90), as the real loader does.
                let better = best
                    .as_ref()
                    .is_none_or(|best| target.0 > best.capability || target.1.is_some());
                if runs(capability, target) && better {
                    best = Some(Loaded {
                        ptx,
                        capability: target.0,
                        registers: HashMap::new(),
                    });
                }
            }
            Kind::Elf => {
                present.push(format!("machine code for sm_{}", entry.capability));
                code.push((entry.capability, register_counts(&entry.image()?)));
            }
            Kind::Other(kind) => present.push(format!("an entry of kind {kind}")),
        }
    }
    let mut best = best.ok_or_else(|| {
        let holds = if present.is_empty() {
            "nothing".to_owned()
        } else {
            present.join(", ")
        };
        FatbinError::NoPtx(format!(
            "the fat binary holds {holds}; softcuda runs PTX only, and the device is sm_{capability}. Add `{}` to \
             nvcc's command line",
            flag_to_add(capability.min(80))
        ))
    })?;
    // The code that the real device would run, else whatever there is.
    code.sort_by_key(|&(of, _)| (of / 10 == capability / 10 && of <= capability, of));
    for (_, registers) in code {
        best.registers.extend(registers);
    }
    Ok(best)
}

/// Registers per thread by kernel: the ELF section `.text.KERNEL` has them in the upper byte of `sh_info`.
fn register_counts(elf: &[u8]) -> HashMap<String, u32> {
    let mut counts = HashMap::new();
    let mut read = || {
        if elf.get(..4)? != b"\x7fELF" {
            return None;
        }
        let table = usize::try_from(u64_at(elf, 40)?).ok()?;
        let size = usize::from(u16_at(elf, 58)?);
        let number = usize::from(u16_at(elf, 60)?);
        let names = usize::from(u16_at(elf, 62)?);
        let header = |index: usize| elf.get(table.checked_add(index * size)?..);
        let strings = usize::try_from(u64_at(header(names)?, 24)?).ok()?;
        for index in 0..number {
            let section = header(index)?;
            let name = elf.get(strings.checked_add(u32_at(section, 0)? as usize)?..)?;
            let name = &name[..name.iter().position(|&byte| byte == 0)?];
            if let Some(kernel) = name.strip_prefix(b".text.") {
                let registers = u32_at(section, 44)? >> 24;
                counts.insert(String::from_utf8_lossy(kernel).into_owned(), registers);
            }
        }
        Some(())
    };
    // Machine code is not run here: what cannot be read of it is not known, no more.
    let _ = read();
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A container with these (kind, capability, flags, decompressed bytes, image).
    fn container(parts: &[(u16, u32, u64, u64, &[u8])]) -> Vec<u8> {
        let mut body = Vec::new();
        for &(kind, capability, flags, bytes, image) in parts {
            let padded = image.len().next_multiple_of(8);
            body.extend(kind.to_le_bytes());
            body.extend(0x101u16.to_le_bytes());
            body.extend(64u32.to_le_bytes());
            body.extend((padded as u64).to_le_bytes());
            body.extend((image.len() as u32).to_le_bytes());
            body.extend(0u32.to_le_bytes());
            body.extend([0; 4]);
            body.extend(capability.to_le_bytes());
            body.extend([0; 8]);
            body.extend(flags.to_le_bytes());
            body.extend([0; 8]);
            body.extend(bytes.to_le_bytes());
            body.extend(image);
            body.resize(body.len() + padded - image.len(), 0);
        }
        let mut all = MAGIC.to_le_bytes().to_vec();
        all.extend(1u16.to_le_bytes());
        all.extend(16u16.to_le_bytes());
        all.extend((body.len() as u64).to_le_bytes());
        all.extend(body);
        all
    }

    const P80: &[u8] = b".version 9.0\n.target sm_80\n.address_size 64\n";
    const P90: &[u8] = b".version 9.0\n.target sm_90\n.address_size 64\n";
    const P90A: &[u8] = b".version 9.0\n.target sm_90a\n.address_size 64\n";
    const P100: &[u8] = b".version 9.0\n.target sm_100\n.address_size 64\n";

    #[test]
    fn takes_the_newest_ptx_that_the_device_runs() {
        let all = container(&[(1, 80, 0, 0, P80), (1, 100, 0, 0, P100), (1, 90, 0, 0, P90)]);
        assert_eq!(load(&all, 90).unwrap().ptx, P90);
        assert_eq!(load(&all, 89).unwrap().ptx, P80);
        assert_eq!(load(&all, 80).unwrap().capability, 80);
    }

    #[test]
    fn an_architecture_specific_text_runs_on_that_device_only() {
        let all = container(&[(1, 80, 0, 0, P80), (1, 90, 0, 0, P90A), (1, 90, 0, 0, P90)]);
        assert_eq!(load(&all, 90).unwrap().ptx, P90A);
        assert_eq!(load(&all, 89).unwrap().ptx, P80);
        let only = container(&[(1, 90, 0, 0, P90A)]);
        assert!(load(&only, 89).unwrap_err().to_string().contains("compute_90a"));
        assert!(!runs(100, (90, Some('a'))) && runs(100, (90, None)));
    }

    #[test]
    fn machine_code_alone_is_refused_with_the_flag() {
        let error = load(&container(&[(2, 90, 0, 0, b"\x7fELF")]), 90).unwrap_err();
        assert!(matches!(error, FatbinError::NoPtx(_)));
        let text = error.to_string();
        assert!(text.contains("machine code for sm_90"), "{text}");
        assert!(
            text.contains("-gencode arch=compute_80,code=compute_80"),
            "{text}"
        );
    }

    #[test]
    fn lz4_block() {
        let packed = lz4_flex::block::compress(P80);
        let all = container(&[(1, 80, COMPRESSED_LZ4, P80.len() as u64, &packed)]);
        assert_eq!(load(&all, 80).unwrap().ptx, P80);
        let short = container(&[(1, 80, COMPRESSED_LZ4, P80.len() as u64 - 1, &packed)]);
        assert!(matches!(load(&short, 80), Err(FatbinError::Damaged(_))));
    }

    #[test]
    fn zstandard_frame() {
        // One raw block in a single-segment frame, written by hand from RFC 8878.
        let mut frame = vec![0x28, 0xB5, 0x2F, 0xFD, 0x20, P80.len() as u8];
        frame.extend(&((P80.len() as u32) << 3 | 1).to_le_bytes()[..3]);
        frame.extend(P80);
        let all = container(&[(1, 80, COMPRESSED_ZSTD, P80.len() as u64, &frame)]);
        assert_eq!(load(&all, 80).unwrap().ptx, P80);
        let wrong = container(&[(1, 80, COMPRESSED_ZSTD, 7, &frame)]);
        assert!(matches!(load(&wrong, 80), Err(FatbinError::Damaged(_))));
    }

    #[test]
    fn damage_is_an_error_not_a_panic() {
        let all = container(&[(1, 80, 0, 0, P80), (2, 80, 0, 0, b"\x7fELFxxxxxxxxxxxx")]);
        for end in 0..all.len() {
            assert!(
                matches!(load(&all[..end], 80), Err(FatbinError::Damaged(_))),
                "{end}"
            );
        }
        for at in 0..all.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = all.clone();
                bytes[at] = value;
                let _ = load(&bytes, 80);
            }
        }
    }
}
